//! Leaves quotations out of a message: they may repeat what the caller wrote.
//!
//! Must never decide what a message means.

/// What a quotation becomes.
pub(super) const BLANK: char = '#';

/// Quotation marks whose end differs from their beginning, and backticks. Straight quotes are read apart.
const QUOTES: &[(char, char)] = &[
    ('`', '`'),
    ('“', '”'),
    ('‘', '’'),
    ('«', '»'),
    ('「', '」'),
    ('『', '』'),
    ('《', '》'),
    ('【', '】'),
];

/// The message in lower case, with [`BLANK`] in place of each quotation.
pub(super) fn without_quotations(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    let mut rest = message;
    let mut before = ' ';
    while let Some(first) = rest.chars().next() {
        let len = match quotation(rest, first, before) {
            Some(len) => {
                text.push(BLANK);
                len
            }
            None => {
                text.push(first.to_ascii_lowercase());
                first.len_utf8()
            }
        };
        before = rest[..len].chars().next_back().unwrap_or(' ');
        rest = &rest[len..];
    }
    text
}

/// The length of the quotation at the start of `text`, marks included. One without an end takes all that follows.
/// `before`: the character before `text`, since an apostrophe inside a word is no quotation mark.
pub(super) fn quotation(text: &str, first: char, before: char) -> Option<usize> {
    let end = match first {
        '"' | '\'' if before.is_alphanumeric() => return None,
        '"' | '\'' => first,
        _ => QUOTES.iter().find(|(start, _)| *start == first)?.1,
    };
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        let after = at + c.len_utf8();
        let ends = c == end && !is_escaped;
        let is_inside_word = first == '\'' && text[after..].starts_with(char::is_alphanumeric);
        if ends && !is_inside_word {
            return Some(after);
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    Some(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotations_are_left_out_and_apostrophes_stay() {
        for (message, expect) in [
            ("You don't own `a b`.", "you don't own #."),
            (r#"Role "x \"y\" z" is unknown"#, "role # is unknown"),
            ("Got 'it isn't', sorry", "got #, sorry"),
            ("模型「甲」和“乙”", "模型#和#"),
            ("Got \"no end, sorry", "got #"),
            ("«x» ‘y’ 《z》", "# # #"),
            ("", ""),
        ] {
            assert_eq!(without_quotations(message), expect);
        }
    }
}
