//! What commands write: aligned tables for people, one JSON object for programs.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use anstyle::Style;
use clap::ValueEnum;
use serde::Serialize;

use crate::flows::VERSION;

/// For whom a command writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people: aligned columns.
    #[default]
    Table,
    /// For programs: one JSON object.
    Json,
}

/// Writes text to stdout, without its colours where they would be noise.
pub(super) fn write(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// An object as it is, with the version of the schema in front.
#[derive(Serialize)]
struct Versioned<'a, T> {
    v: u32,
    #[serde(flatten)]
    object: &'a T,
}

/// Writes an object as indented JSON with its newline, `"v": 1` in front.
pub(super) fn write_json(object: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(&Versioned { v: VERSION, object })?;
    text.push('\n');
    Ok(write(&text)?)
}

/// Columns as wide as their widest cell. Cells hold no line breaks; foreign text in them is escaped already.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    heads: [&'static str; N],
    rows: Vec<[Cell; N]>,
}

/// Text and how it looks.
#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    text: String,
    style: Style,
    /// Stands at the right edge, as numbers do.
    right: bool,
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, ..Self::default() }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self { text: number.to_string(), right: true, ..Self::default() }
    }
}

impl Cell {
    pub(super) fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style, right: false }
    }
}

impl<const N: usize> Table<N> {
    pub(super) const fn new(heads: [&'static str; N]) -> Self {
        Self { heads, rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: [Cell; N]) {
        self.rows.push(cells);
    }

    /// The table with its heads; an empty cell shows as `-`.
    pub(super) fn render(&self) -> String {
        let mut widths = self.heads.map(str::len);
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.shown().chars().count());
            }
        }
        let mut out = String::new();
        push_row(&mut out, &self.heads.map(Cell::from), widths);
        self.rows.iter().for_each(|row| push_row(&mut out, row, widths));
        out
    }
}

impl Cell {
    fn shown(&self) -> &str {
        if self.text.is_empty() { "-" } else { &self.text }
    }
}

fn push_row<const N: usize>(out: &mut String, row: &[Cell; N], widths: [usize; N]) {
    for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
        let (text, style) = (cell.shown(), cell.style);
        let fill = width - text.chars().count();
        let (before, after) = if cell.right { (fill, 0) } else { (0, fill) };
        // No blanks at the end of a line.
        let after = if index + 1 == N { 0 } else { after + 2 };
        let _infallible = write!(out, "{:before$}{style}{text}{style:#}{:after$}", "", "");
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let mut table = Table::new(["NAME", "COUNT", "WHY"]);
        table.row(["shop/checkout".into(), 7.into(), "".into()]);
        table.row(["→".into(), 123_456.into(), "two selectors".into()]);
        table.row(["".into(), "".into(), "".into()]);
        expect![[r"
            NAME           COUNT   WHY
            shop/checkout       7  -
            →              123456  two selectors
            -              -       -
        "]]
        .assert_eq(&table.render());
    }

    #[test]
    fn colours_take_no_room() {
        let red = anstyle::AnsiColor::Red.on_default();
        let mut plain = Table::new(["A", "B"]);
        plain.row(["fail".into(), "x".into()]);
        let mut coloured = Table::new(["A", "B"]);
        coloured.row([Cell::styled("fail", red), "x".into()]);
        assert_eq!(anstream::adapter::strip_str(&coloured.render()).to_string(), plain.render());
    }
}
