//! Completions and manual pages: made from the table of commands, so none of them is missing one.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/process.rs"]
mod process;

use std::io::Write;
use std::process::{Command, Stdio};

use crate::process::meshmint;

fn out(args: &[&str]) -> String {
    let output = meshmint(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The commands below one, as its help lists them.
fn below(words: &[&str]) -> Vec<String> {
    let help = out(&[words, &["--help"]].concat());
    let Some((_, commands)) = help.split_once("\nCommands:\n") else { return Vec::new() };
    let names = commands.lines().take_while(|line| !line.is_empty()).filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.map(|line| line.split_whitespace().next().unwrap().to_owned()).filter(|name| name != "help").collect()
}

/// Every command with all its words.
fn commands() -> Vec<Vec<String>> {
    let (mut all, mut next) = (vec![], vec![vec![]]);
    while let Some(words) = next.pop() {
        let borrowed: Vec<&str> = words.iter().map(String::as_str).collect();
        next.extend(below(&borrowed).into_iter().map(|word| [words.clone(), vec![word]].concat()));
        all.push(words);
    }
    assert!(all.len() >= 18, "{all:?}");
    all
}

#[test]
fn bash_completes_every_command_and_flag() {
    let script = out(&["completions", "bash"]);
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(bash.wait().unwrap().success(), "it parses");
    // As a shell would ask: what may follow these words?
    let complete = |words: &[&str]| {
        let line = format!(
            "COMP_WORDS=(meshmint {} ''); COMP_CWORD={}; _meshmint meshmint '' ''; echo \"${{COMPREPLY[@]}}\"",
            words.join(" "),
            words.len() + 1
        );
        let output = Command::new("bash").args(["--norc", "-c", &format!("{script}\n{line}")]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for words in commands() {
        let borrowed: Vec<&str> = words.iter().map(String::as_str).collect();
        let offered = complete(&borrowed);
        let offered: Vec<&str> = offered.split_whitespace().collect();
        assert!(offered.contains(&"--help"), "{words:?}: {offered:?}");
        assert!(below(&borrowed).iter().all(|word| offered.contains(&word.as_str())), "{words:?}: {offered:?}");
    }
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let script = out(&["completions", shell]);
        assert!(script.contains("page-token") && script.contains("watch"), "{shell}");
    }
    assert_eq!(meshmint(&["completions", "teapot"]).status.code(), Some(2));
}

#[test]
fn there_is_a_page_for_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("man1");
    let said = out(&["man", "--dir", dir.to_str().unwrap()]);
    let commands = commands();
    assert!(said.starts_with(&format!("{} pages are in ", commands.len())), "{said}");
    for words in &commands {
        let name = [vec!["meshmint".to_owned()], words.clone()].concat().join("-");
        let page = std::fs::read_to_string(dir.join(format!("{name}.1"))).unwrap();
        assert!(page.contains(&format!(".TH {name} 1 ")) && page.contains(&format!("\"meshmint {}\"", env!("CARGO_PKG_VERSION"))), "{name}: {page}");
        assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS") && page.contains(".SH OPTIONS"), "{name}");
        let borrowed: Vec<&str> = words.iter().map(String::as_str).collect();
        assert_eq!(out(&[&["man"], borrowed.as_slice()].concat()), page, "the same on stdout");
        // roff: a control line begins with a dot and a name, and nothing else does.
        let control = page.lines().filter(|line| line.starts_with('.'));
        for line in control {
            assert!(line[1..].starts_with(|letter: char| letter.is_ascii_alphabetic()), "{name}: {line}");
        }
        assert!(page.lines().all(|line| !line.starts_with('\'')), "{name}");
    }
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), commands.len());
    assert!(out(&["man", "certs", "watch"]).contains("meshmint certs watch"));
    let unknown = meshmint(&["man", "certs", "nonsense"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8(unknown.stderr).unwrap().contains("no command `meshmint certs nonsense`"));
    assert_eq!(meshmint(&["man", "certs", "--dir", "/tmp/x"]).status.code(), Some(2));
}
