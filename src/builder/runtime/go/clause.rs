//! Which package a file of Go belongs to.

/// Most bytes of a file that are read for its package clause, which comes after comments alone.
pub(super) const MOST: u64 = 64 * 1024;

/// Whether a file that begins so is one of a program: of `package main`, and not left out of builds
/// by the constraint that tools beside a package have.
pub(super) fn is_program(text: &str) -> bool {
    let mut rest = text.trim_start_matches('\u{feff}');
    loop {
        rest = rest.trim_start();
        if let Some(comment) = rest.strip_prefix("//") {
            let (line, more) = comment.split_once('\n').unwrap_or((comment, ""));
            let constraint = line.strip_prefix("go:build");
            if constraint.is_some_and(|c| c.trim() == "ignore") {
                return false;
            }
            rest = more;
        } else if let Some(comment) = rest.strip_prefix("/*") {
            let Some((_, more)) = comment.split_once("*/") else {
                return false;
            };
            rest = more;
        } else {
            break;
        }
    }
    let Some(name) = rest.strip_prefix("package") else {
        return false;
    };
    // The name follows on the same line.
    let name = name.trim_start_matches([' ', '\t']);
    let end = name
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(name.len());
    rest.len() > "package".len() + name.len() && &name[..end] == "main"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clause_is_found_after_comments_and_blank_lines() {
        for program in [
            "package main",
            "\u{feff}package main\r\n",
            "// Copyright\n\n/* more\npackage other */\n\npackage\tmain // why\n",
            "//go:build linux\n\npackage main;import \"ignite\"\n",
        ] {
            assert!(is_program(program), "{program}");
        }
        for other in [
            "",
            "package",
            "packagemain",
            "package mains",
            "package handler\n// package main\n",
            "// package main\n",
            "/* package main",
            "//go:build ignore\n\npackage main\n",
            "import \"x\"\npackage main\n",
        ] {
            assert!(!is_program(other), "{other}");
        }
    }
}
