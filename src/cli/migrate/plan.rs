//! A plan: steps in their order, each with its reason, what to run, how to see that it is done, and the way back from there.

use std::fmt::Write as _;

use anstyle::Style;
use serde::Serialize;
use serde_json::Value;

use super::super::screen;
use super::facts::{Facts, Unread};
use crate::pki::inspect::printable;

/// Which way a mesh goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Way {
    /// The key of the CA that signs now is handed over; nobody has to learn a root.
    KeepRoot,
    /// meshmint has a root of its own; both are trusted everywhere first.
    NewRoot,
    /// From meshmint to the CA that signed before.
    Back,
}

/// The plan.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Plan<'a> {
    pub(super) way: Way,
    /// Why this way.
    pub(super) because: String,
    pub(super) found: &'a Facts,
    /// What to know before the first step.
    pub(super) notes: Vec<String>,
    pub(super) steps: Vec<Step>,
}

/// One step.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Step {
    pub(super) title: String,
    pub(super) why: String,
    #[serde(rename = "do")]
    pub(super) act: Vec<Part>,
    /// How to see that it is done.
    pub(super) done: Vec<Part>,
    /// How to go back from here.
    pub(super) back: Vec<Part>,
}

/// A part of a step.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub(super) enum Part {
    /// Something to know or to do by hand.
    Say { text: String },
    /// Commands for a shell.
    Run { commands: Vec<String> },
    /// A file of values for Helm.
    Values { file: String, chart: &'static str, values: Value },
}

pub(super) fn say(text: impl Into<String>) -> Part {
    Part::Say { text: text.into() }
}

pub(super) fn run<S: Into<String>>(commands: impl IntoIterator<Item = S>) -> Part {
    Part::Run { commands: commands.into_iter().map(Into::into).collect() }
}

pub(super) fn values(chart: &'static str, values: Value) -> Part {
    Part::Values { file: format!("values-{chart}.yaml"), chart, values }
}

impl Plan<'_> {
    /// Everything, as indented JSON.
    ///
    /// # Errors
    /// The serializer's, which has none for these types.
    pub(super) fn json(&self) -> Result<String, String> {
        screen::json(self).map(|json| json + "\n")
    }

    /// For people.
    pub(super) fn text(&self, found: &[String]) -> String {
        const BOLD: Style = Style::new().bold();
        let mut text = format!("{BOLD}Found{BOLD:#}\n");
        found.iter().for_each(|line| _ = writeln!(text, "  {}", printable(line)));
        if !self.found.unread.is_empty() {
            _ = writeln!(text, "\n{BOLD}Not read{BOLD:#}");
        }
        for Unread { what, why, instead, fix } in &self.found.unread {
            _ = writeln!(text, "  {}", printable(&format!("{what}: {why}")));
            _ = writeln!(text, "    {}", printable(&format!("The plan takes: {instead}. See `{fix}`, and plan again with that permission.")));
        }
        _ = writeln!(text, "\n{BOLD}{}{BOLD:#}\n  {}", self.way.title(), printable(&self.because));
        if !self.notes.is_empty() {
            _ = writeln!(text, "\n{BOLD}Before you begin{BOLD:#}");
        }
        self.notes.iter().for_each(|note| _ = writeln!(text, "  - {}", printable(note)));
        for (index, step) in self.steps.iter().enumerate() {
            _ = writeln!(text, "\n{BOLD}{}. {}{BOLD:#}\n   {}", index + 1, step.title, printable(&step.why));
            step.act.iter().for_each(|part| part.write(&mut text));
            heading(&mut text, "Done when", &step.done);
            heading(&mut text, "Back from here", &step.back);
        }
        text
    }
}

fn heading(text: &mut String, heading: &str, parts: &[Part]) {
    if !parts.is_empty() {
        _ = writeln!(text, "   {heading}:");
        parts.iter().for_each(|part| part.write(text));
    }
}

impl Part {
    fn write(&self, text: &mut String) {
        match self {
            Self::Say { text: said } => _ = writeln!(text, "   {}", printable(said)),
            Self::Run { commands } => commands.iter().for_each(|command| _ = writeln!(text, "     {}", printable(command))),
            Self::Values { file, values, .. } => {
                _ = writeln!(text, "   {file}:");
                yaml(values).lines().for_each(|line| _ = writeln!(text, "     {}", printable(line)));
            }
        }
    }
}

/// Values as YAML. JSON is YAML, too, where the serializer should not take it.
pub(super) fn yaml(values: &Value) -> String {
    serde_saphyr::to_string(values).unwrap_or_else(|_| values.to_string())
}

impl Way {
    fn title(self) -> &'static str {
        match self {
            Self::KeepRoot => "The way: keep the root",
            Self::NewRoot => "The way: a new root",
            Self::Back => "The way back",
        }
    }
}
