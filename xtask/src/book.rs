//! The docs as a book, and whether its pages hang together: each stands in the table of contents, and each link to a file
//! or a heading leads there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::Outcome;
use crate::cargo::run as run_cargo;
use crate::process::unless_interrupted;
use crate::tools::Tool;
use crate::workspace::{root, target};

const MDBOOK: Tool = Tool { name: "mdbook", version: "0.5.4" };

/// Pages beside the book whose links are looked at, too.
const BESIDE: [&str; 4] = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "clients/typescript/README.md"];

/// `cargo xtask book`
pub async fn run() -> Outcome {
    check(root())?;
    unless_interrupted(async {
        let mdbook = MDBOOK.ensure().await?;
        run_cargo(Command::new(mdbook).arg("build").arg(root())).await
    })
    .await?;
    println!("The book begins at {}.", target("book/index.html").display());
    Ok(())
}

/// Looks at the pages as they are, which needs no tool.
///
/// # Errors
/// All pages that the contents leave out, and all links that lead nowhere.
pub fn check(root: &Path) -> Outcome {
    let mut pages = Vec::new();
    for entry in std::fs::read_dir(root.join("docs"))? {
        pages.push(entry?.path());
    }
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    pages.sort();
    let contents = root.join("docs/SUMMARY.md");
    let told: BTreeSet<PathBuf> =
        links(&read(&contents)?).map(|link| contents.with_file_name(link)).collect();
    let untold = pages.iter().filter(|page| **page != contents && !told.contains(*page));
    let mut faults: Vec<String> =
        untold.map(|page| format!("{}: not in docs/SUMMARY.md", page.display())).collect();
    for page in pages.into_iter().chain(BESIDE.map(|page| root.join(page))) {
        let text = read(&page)?;
        let is_in_book = page.starts_with(root.join("docs"));
        for link in links(&text).filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            if let Some(fault) = fault(&page, &text, link, is_in_book) {
                faults.push(format!("{}: {link}: {fault}", page.display()));
            }
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n  ").into()) }
}

fn read(page: &Path) -> Outcome<String> {
    std::fs::read_to_string(page).map_err(|e| format!("{}: {e}", page.display()).into())
}

/// What is wrong with a link of a page.
fn fault(page: &Path, text: &str, link: &str, is_in_book: bool) -> Option<&'static str> {
    let (file, heading) = link.split_once('#').map_or((link, None), |(file, heading)| (file, Some(heading)));
    if is_in_book && file.starts_with("..") {
        return Some("leads out of the book");
    }
    let place = page.with_file_name(file);
    if !file.is_empty() && !place.exists() {
        return Some("there is no such file");
    }
    let other = if file.is_empty() { text.to_owned() } else { std::fs::read_to_string(place).ok()? };
    let is_there = heading.is_none_or(|heading| headings(&other).any(|known| known == heading));
    (!is_there).then_some("there is no such heading")
}

/// What a page says outside of its examples.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_example = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_example ^= is_fence;
        !is_example && !is_fence
    })
}

/// Where a page leads: `[…](here)`, pictures included.
fn links(text: &str) -> impl Iterator<Item = &str> {
    // What stands in backquotes is no link.
    let plain = prose(text).flat_map(|line| line.split('`').step_by(2));
    plain.flat_map(|part| part.split("](").skip(1)).filter_map(|rest| rest.split([')', ' ']).next())
}

/// The names of a page's headings in addresses, as GitHub and mdBook make them. Of headings that are alike, the first.
fn headings(text: &str) -> impl Iterator<Item = String> {
    let titles = prose(text)
        .filter_map(|line| line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')));
    titles.map(|title| {
        let kept = |letter: char| match letter {
            ' ' => Some('-'),
            '-' | '_' => Some(letter),
            letter => letter.is_alphanumeric().then_some(letter),
        };
        title.trim().chars().filter_map(kept).collect::<String>().to_lowercase()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_of_the_docs_is_in_the_book_and_every_link_leads_somewhere() {
        check(root()).expect("docs");
    }

    #[test]
    fn a_page_that_is_left_out_and_links_that_lead_nowhere_are_found() {
        let folder = std::env::temp_dir().join(format!("book-{}", std::process::id()));
        let write = |page: &str, text: &str| {
            let place = folder.join(page);
            std::fs::create_dir_all(place.parent().expect("a folder")).expect("made");
            std::fs::write(place, text).expect("written");
        };
        BESIDE.iter().for_each(|page| write(page, "# Nothing"));
        write("docs/SUMMARY.md", "- [One](one.md)\n- [Gone](gone.md)");
        write(
            "docs/one.md",
            "# Why: it *is* so\n[a](#why-it-is-so) [b](#why) ![c](no.png) `[d](no.md)` [e](../README.md)\n\
             ```sh\n# [f](no.md)\n```\n[g](https://example.com/no) [h](two.md#two) [i](two.md#three)",
        );
        write("docs/two.md", "## Two");
        let faults = check(&folder).expect_err("faults").to_string();
        std::fs::remove_dir_all(&folder).expect("removed");
        for fault in [
            "two.md: not in",
            "gone.md: there is no",
            "#why: there is no such h",
            "no.png: there",
            "../README.md: leads",
            "#three: there",
        ] {
            assert!(faults.contains(fault), "{fault:?} is not in {faults}");
        }
        assert_eq!(faults.lines().count(), 6, "{faults}");
    }
}
