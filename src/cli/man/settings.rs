//! receiptd.toml(5), generated from the reference file: comments become text, lines become terms.

use clap_mangen::roff::{Roff, bold, roman};

const REFERENCE: &str = include_str!("../../../config/receiptd.toml");

/// The page.
pub fn page() -> String {
    let mut roff = Roff::new();
    roff.control("TH", ["receiptd.toml", "5", "", concat!("receiptd ", env!("CARGO_PKG_VERSION")), ""]);
    roff.control("SH", ["NAME"]).text([roman("receiptd.toml - settings of receiptd")]);
    roff.control("SH", ["DESCRIPTION"]);
    let mut comment = Vec::new();
    let mut lines = REFERENCE.lines();
    while let Some(line) = lines.next() {
        if let Some(words) = line.strip_prefix("# ") {
            comment.push(words);
        } else if line.is_empty() || line == "#" {
            paragraph(&mut roff, &mut comment);
        } else if let Some(section) = section(line) {
            // The comment above a section describes it.
            roff.control("SH", [section]);
            paragraph(&mut roff, &mut comment);
        } else {
            let mut setting = vec![line.trim_start_matches('#')];
            while setting.last().is_some_and(|last| is_open(setting[0]) && !last.starts_with(']')) {
                setting.extend(lines.next());
            }
            term(&mut roff, &setting, !line.starts_with('#'), &mut comment);
        }
    }
    paragraph(&mut roff, &mut comment);
    roff.control("SH", ["SEE ALSO"]).text([bold("receiptd"), roman("(1)")]);
    roff.to_roff()
}

/// The heading of a section, including commented-out examples.
fn section(line: &str) -> Option<&str> {
    line.trim_start_matches('#').strip_prefix('[').map(|_| line.trim_start_matches('#'))
}

/// Whether a setting continues on the next line.
fn is_open(line: &str) -> bool {
    line.ends_with('[')
}

fn paragraph(roff: &mut Roff, comment: &mut Vec<&str>) {
    if comment.is_empty() {
        return;
    }
    roff.control("PP", []);
    // List items start with a dash and keep their own lines.
    for words in comment.drain(..) {
        if words.trim_start().starts_with("- ") {
            roff.control("br", []);
        }
        roff.text([roman(words.trim())]);
    }
}

/// A setting with its default and description.
fn term(roff: &mut Roff, setting: &[&str], is_set: bool, comment: &mut Vec<&str>) {
    roff.control("TP", []).text([bold(setting.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" "))]);
    let said = comment.drain(..).map(str::trim).collect::<Vec<_>>().join(" ");
    let said = if said.is_empty() { "See above.".to_owned() } else { said };
    roff.text([roman(if is_set { said } else { format!("{said} (Not set.)") })]);
}
