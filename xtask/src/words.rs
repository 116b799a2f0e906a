//! Finds words and phrases in the identifiers and comments of Rust sources.

use crate::code;

/// A word in lower case, and its line.
type Word = (usize, String);

/// Every use of one of `phrases` in `source`: its line and the phrase. A phrase is one or more words in lower case.
///
/// Identifiers are split at underscores and capitals, so "half open" finds `half_open` and `HalfOpen`. A phrase may
/// continue on the next line of a comment.
pub fn uses<'p>(source: &str, phrases: &[&'p str]) -> Vec<(usize, &'p str)> {
    let texts: Vec<Vec<Word>> = identifiers(source).chain(comments(source)).collect();
    let mut found = Vec::new();
    for phrase in phrases {
        let phrase_words: Vec<&str> = phrase.split(' ').collect();
        for words in texts
            .iter()
            .flat_map(|text| text.windows(phrase_words.len()))
        {
            if words.iter().map(|(_, word)| word).eq(&phrase_words) {
                found.push((words[0].0, *phrase));
            }
        }
    }
    found.sort_unstable();
    found
}

/// The words of each identifier.
fn identifiers(source: &str) -> impl Iterator<Item = Vec<Word>> {
    let code = code::blanked(source);
    let lines: Vec<String> = code.lines().map(str::to_owned).collect();
    lines.into_iter().enumerate().flat_map(|(index, line)| {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let identifiers = line.split(|c| !is_part(c));
        let words = identifiers.map(|identifier| words(identifier, index + 1));
        words.collect::<Vec<_>>()
    })
}

/// The words of each block of comment lines.
fn comments(source: &str) -> impl Iterator<Item = Vec<Word>> {
    let mut blocks: Vec<Vec<Word>> = Vec::new();
    let (mut line, mut last_end) = (1, 0);
    for span in code::comments(source) {
        let between = &source[last_end..span.start];
        let continues = !blocks.is_empty() && between.trim().is_empty();
        let first_line = line + between.matches('\n').count();
        line = first_line + source[span.clone()].matches('\n').count();
        last_end = span.end;
        let lines = source[span].lines().enumerate();
        let words = lines.flat_map(|(index, line)| words(line, first_line + index));
        match blocks.last_mut() {
            Some(block) if continues => block.extend(words),
            _ => blocks.push(words.collect()),
        }
    }
    blocks.into_iter()
}

/// Splits at everything but letters and digits, and before each capital that starts a word.
fn words(text: &str, line: usize) -> Vec<Word> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut last = ' ';
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let next_is_lower = chars.peek().is_some_and(|next| next.is_lowercase());
        let starts_word = c.is_uppercase() && (!last.is_uppercase() || next_is_lower);
        if (starts_word || !c.is_alphanumeric()) && !word.is_empty() {
            words.push((line, std::mem::take(&mut word)));
        }
        if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        }
        last = c;
    }
    if !word.is_empty() {
        words.push((line, word));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_split_at_underscores_and_capitals() {
        let split = |text| {
            let words = words(text, 1).into_iter();
            words.map(|(_, word)| word).collect::<Vec<_>>().join(" ")
        };
        for (text, expect) in [
            ("half_open", "half open"),
            ("HalfOpen", "half open"),
            ("HTTPServer2", "http server2"),
            ("MAX_LINES", "max lines"),
            ("it's `a_b`", "it s a b"),
        ] {
            assert_eq!(split(text), expect);
        }
    }

    #[test]
    fn phrases_are_found_in_identifiers_and_comments() {
        let phrases = ["red", "half open"];
        for (source, expect) in [
            (
                "fn red() {}\nlet half_open = HalfOpen;",
                &[(1, "red"), (2, "half open"), (2, "half open")][..],
            ),
            (
                "//! It is half\n//! open.\n/// Red\nfn blue() {}",
                &[(1, "half open"), (3, "red")],
            ),
            // Neither literals nor parts of words, nor two comments with code between them.
            ("let a = \"red\"; // reds half\nf(); // open", &[]),
            ("let half = open;", &[]),
        ] {
            assert_eq!(uses(source, &phrases), expect, "{source}");
        }
    }
}
