//! The rows of a run: what was tried, how it ended, what it said.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How a row ended. An error of the function behind it is the third end: something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// All is right; figures to show.
    Right(String),
    /// Not tried, and why.
    Skipped(String),
}

/// One row.
#[derive(Debug)]
pub struct Row {
    name: String,
    took: Duration,
    ending: anyhow::Result<Ending>,
}

impl Row {
    fn verdict(&self) -> &'static str {
        match &self.ending {
            Ok(Ending::Right(_)) => "right",
            Ok(Ending::Skipped(_)) => "skipped",
            Err(_) => "WRONG",
        }
    }

    fn said(&self) -> String {
        match &self.ending {
            Ok(Ending::Right(said) | Ending::Skipped(said)) => said.clone(),
            Err(error) => format!("{error:#}"),
        }
    }
}

/// The rows so far.
#[derive(Debug)]
pub struct Report {
    only: Option<String>,
    json: bool,
    rows: Vec<Row>,
}

impl Report {
    /// An empty report. It takes only rows whose names contain one of the texts of `only`, separated by commas.
    pub fn new(only: Option<String>, json: bool) -> Report {
        Report { only, json, rows: Vec::new() }
    }

    /// Whether rows of this name are wanted.
    pub fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.split(',').any(|part| name.contains(part)))
    }

    /// Runs what is behind a row, unless it is not wanted, and adds the row.
    pub fn row(&mut self, name: &str, run: impl FnOnce() -> anyhow::Result<Ending>) {
        if !self.wants(name) {
            return;
        }
        let begun = Instant::now();
        let row = Row { name: name.to_owned(), ending: run(), took: begun.elapsed() };
        // What a program says in many lines is for the table's reader, not for the table.
        let _ = writeln!(std::io::stderr(), "{:<44} {:<8} {}", row.name, row.verdict(), row.said());
        self.rows.push(row);
    }

    /// Prints all rows, as a table or as JSON. The exit code is a failure when a row is wrong, or when there is
    /// no row.
    pub fn finish(self) -> ExitCode {
        let mut out = std::io::stdout().lock();
        let count = |verdict: &str| self.rows.iter().filter(|row| row.verdict() == verdict).count();
        if self.json {
            let rows = self.rows.iter().map(|row| {
                serde_json::json!({
                    "name": row.name, "verdict": row.verdict().to_lowercase(), "said": row.said(),
                    "ms": row.took.as_millis() as u64,
                })
            });
            let rows: Vec<serde_json::Value> = rows.collect();
            let _ = writeln!(out, "{}", serde_json::Value::from(rows));
        } else {
            let _ = writeln!(out, "\n{:<44} {:<8} {:>7}  what it says", "row", "ends", "s");
            for row in &self.rows {
                let said = row.said();
                let first = said.lines().next().unwrap_or_default();
                let first: String = first.chars().take(120).collect();
                let secs = row.took.as_secs_f64();
                let _ = writeln!(out, "{:<44} {:<8} {secs:>7.1}  {first}", row.name, row.verdict());
            }
            let _ = writeln!(
                out,
                "{} right, {} wrong, {} skipped",
                count("right"),
                count("WRONG"),
                count("skipped")
            );
        }
        if count("WRONG") > 0 || self.rows.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}
