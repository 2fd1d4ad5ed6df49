//! A bar for each subject, with its middle half as a whisker; what says nothing is pale.

use std::fmt::Write as _;

use crate::figures::{Measure, Row, Spread};
use crate::report::number;

const WIDTH: f64 = 760.0;
/// Where bars begin, and how long the longest is.
const LEFT: f64 = 240.0;
const LONGEST: f64 = 330.0;
const BAR: f64 = 18.0;
const STEP: f64 = 28.0;
const TOP: f64 = 58.0;

/// The plot of one measure.
pub(crate) fn plot(measure: &Measure) -> String {
    let height = TOP + STEP * measure.rows.len() as f64 + 14.0;
    let highest = measure.rows.iter().filter_map(|row| row.value).map(|spread| spread.q3).fold(0.0, f64::max);
    let better = if measure.more_is_better { "longer is better" } else { "shorter is better" };
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"16\" font-weight=\"bold\" fill=\"#1c2733\">{}</text>\n\
         <text x=\"12\" y=\"43\" fill=\"#5b6773\">{}; {better}. Whiskers: the middle half of the rounds.</text>\n",
        escape(&measure.title),
        escape(&measure.unit)
    );
    for (place, row) in measure.rows.iter().enumerate() {
        text.push_str(&bar(row, TOP + STEP * place as f64, highest));
    }
    text + "</svg>\n"
}

fn bar(row: &Row, y: f64, highest: f64) -> String {
    let middle = y + BAR / 2.0;
    let base = middle + 4.5;
    let mut text = format!(
        "<text x=\"{:.1}\" y=\"{base:.1}\" text-anchor=\"end\" fill=\"#1c2733\">{}</text>\n",
        LEFT - 8.0,
        escape(&row.subject)
    );
    let Some(spread) = row.value else {
        let _ = writeln!(text, "<text x=\"{LEFT:.1}\" y=\"{base:.1}\" fill=\"#a33\">failed</text>");
        return text;
    };
    let long = |value: f64| if highest > 0.0 { (value / highest * LONGEST).max(0.0) } else { 0.0 };
    let opacity = if row.unsure { 0.3 } else { 1.0 };
    let _ = writeln!(
        text,
        "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{}\" fill-opacity=\"{opacity}\"/>",
        long(spread.median),
        colour(&row.subject)
    );
    if !row.single {
        let (from, to) = (LEFT + long(spread.q1), LEFT + long(spread.q3));
        let _ = writeln!(
            text,
            "<path d=\"M{from:.1} {middle:.1}H{to:.1}M{from:.1} {:.1}v8M{to:.1} {:.1}v8\" stroke=\"#1c2733\" stroke-width=\"1.2\" fill=\"none\"/>",
            middle - 4.0,
            middle - 4.0
        );
    }
    let end = LEFT + long(spread.q3.max(spread.median)) + 8.0;
    let _ = writeln!(
        text,
        "<text x=\"{end:.1}\" y=\"{base:.1}\" fill=\"#1c2733\">{}</text>",
        escape(&label(row, &spread))
    );
    text
}

fn label(row: &Row, spread: &Spread) -> String {
    let ratio = row.ratio.map(|ratio| format!("  ({:.2} of bare)", ratio.median)).unwrap_or_default();
    let doubt = if row.unsure { "  spread too wide" } else { "" };
    format!("{}{ratio}{doubt}", number(spread.median))
}

/// Ours, the bare kernel, and the others.
fn colour(subject: &str) -> &'static str {
    match subject {
        "bare kernel" | "raw rustls" => "#8a97a5",
        _ if subject.starts_with("nftables") => "#5b8c5a",
        _ if subject.ends_with("pair") => "#c27c3e",
        _ => "#2f6db3",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_has_a_bar_for_each_subject_and_marks_what_says_nothing() {
        let samples = vec![
            ("bare kernel".to_owned(), vec![100.0; 7]),
            ("a < b".to_owned(), vec![50.0; 7]),
            ("wild".to_owned(), vec![10.0, 90.0, 40.0]),
            ("broken".to_owned(), vec![f64::NAN; 7]),
        ];
        let plot = plot(&Measure::new("x", "a title", "connections/s", samples));
        assert_eq!(plot.matches("height=\"18\"").count(), 3);
        assert!(plot.contains("a &lt; b") && plot.contains("(0.50 of bare)"));
        assert_eq!(plot.matches("spread too wide").count(), 1);
        assert_eq!(plot.matches(">failed<").count(), 1);
        assert!(plot.starts_with("<svg") && plot.ends_with("</svg>\n"));
    }
}
