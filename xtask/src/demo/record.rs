//! A picture of a terminal: what a command has written there, with its colours.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, ensure};

use crate::stage::Agent;

/// What is typed.
const COMMAND: [&str; 5] = ["tap", "--all-nodes", "--no-follow", "--last", "12"];
/// The size of one character, in pixels.
const WIDTH: f64 = 7.2;
const HEIGHT: usize = 18;
const MARGIN: usize = 12;

/// Runs the command as if on a terminal and draws what it writes.
pub(super) fn draw(agent: &Agent, path: &Path) -> anyhow::Result<()> {
    let output = agent.command(&COMMAND).env("CLICOLOR_FORCE", "1").stdin(Stdio::null()).output()?;
    let text = String::from_utf8(output.stdout).context("the tap writes text")?;
    ensure!(output.status.success() && !text.is_empty(), "the tap has shown nothing");
    let prompt = format!("\x1b[1m$ waxseal {}\x1b[0m", COMMAND.join(" "));
    let lines: Vec<&str> = std::iter::once(prompt.as_str()).chain(text.lines()).collect();
    fs::write(path, picture(&lines)).with_context(|| format!("write {}", path.display()))
}

fn picture(lines: &[&str]) -> String {
    let columns = lines.iter().map(|line| pieces(line).map(|(_, text)| text.chars().count()).sum()).max();
    #[expect(clippy::cast_precision_loss, reason = "a line has no fifteen digits of characters")]
    let width = columns.unwrap_or(0usize) as f64 * WIDTH + 2.0 * MARGIN as f64;
    let height = lines.len() * HEIGHT + 2 * MARGIN;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height}\" font-family=\"monospace\" \
         font-size=\"12\" fill=\"#d8dee9\" xml:space=\"preserve\">\n<rect width=\"100%\" height=\"100%\" rx=\"6\" \
         fill=\"#1d2129\"/>\n"
    );
    for (row, line) in lines.iter().enumerate() {
        let y = MARGIN + row * HEIGHT + 13;
        let mut column = 0;
        for (style, text) in pieces(line) {
            let length = text.chars().count();
            #[expect(clippy::cast_precision_loss, reason = "as above")]
            let (x, wide) = (MARGIN as f64 + column as f64 * WIDTH, length as f64 * WIDTH);
            column += length;
            if text.trim().is_empty() {
                continue;
            }
            let style = attributes(style);
            let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            // The length holds columns in place whatever font the reader has.
            let _infallible =
                writeln!(out, "<text x=\"{x:.1}\" y=\"{y}\" textLength=\"{wide:.1}\"{style}>{text}</text>");
        }
    }
    out + "</svg>\n"
}

/// The parts of a line, each with the colour codes before it.
fn pieces(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut style = "";
    line.split("\x1b[").enumerate().filter_map(move |(place, piece)| {
        if place == 0 {
            return Some(("", piece));
        }
        let (codes, text) = piece.split_once('m')?;
        style = if codes == "0" {
            ""
        } else if style.is_empty() || codes.starts_with('3') {
            codes
        } else {
            style
        };
        Some((style, text))
    })
}

fn attributes(codes: &str) -> &'static str {
    match codes {
        "" => "",
        "1" => " font-weight=\"bold\"",
        "2" => " fill=\"#7b8494\"",
        "31" => " fill=\"#ff6b6b\" font-weight=\"bold\"",
        "32" => " fill=\"#8fd18a\"",
        "33" => " fill=\"#f0c674\"",
        _ => " fill=\"#c9a0dc\"",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_drawn_in_its_colours_and_its_columns() {
        let drawn = picture(&["12:00  \x1b[32mALLOW\x1b[0m  a → b", "\x1b[1m\x1b[31mDENY\x1b[0m <x>"]);
        for part in [
            ">12:00  </text>",
            "<text x=\"62.4\" y=\"25\" textLength=\"36.0\" fill=\"#8fd18a\">ALLOW</text>",
            "textLength=\"50.4\">  a → b</text>",
            " fill=\"#ff6b6b\" font-weight=\"bold\">DENY</text>",
            "> &lt;x&gt;</text>",
        ] {
            assert!(drawn.contains(part), "{part}:\n{drawn}");
        }
        assert!(!drawn.contains('\x1b'));
    }
}
