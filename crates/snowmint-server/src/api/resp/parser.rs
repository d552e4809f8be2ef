//! What clients send: a command as an array of bulk strings, or as a line of words.
//!
//! A parser of our own, because those there are (`redis-protocol` is the best kept) make owned frames of any type and depth
//! and know no lines of words: this one reads a command where it lies, without allocating.

use std::borrow::Cow;

use smallvec::SmallVec;

/// The largest command, in bytes.
pub(super) const COMMAND_BYTES_MAX: usize = 65_536;

/// The most words a command has.
const WORDS_MAX: i64 = 1_024;

/// The longest number, with its line's end, in bytes.
const NUMBER_BYTES_MAX: usize = 22;

/// How many words need no allocation: those of every command that is sent often.
const WORDS_IN_PLACE: usize = 4;

/// A command's name and what comes after it.
pub(super) type Words<'a> = SmallVec<[Cow<'a, [u8]>; WORDS_IN_PLACE]>;

/// Why what a client sent is no command. The texts are those of Redis, where it has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProtocolError {
    #[error("Protocol error: expected '$', got '{}'", .0.escape_ascii())]
    NoBulk(u8),
    #[error("Protocol error: invalid multibulk length")]
    WordCount,
    #[error("Protocol error: invalid bulk length")]
    WordLength,
    #[error("Protocol error: expected CR LF after a bulk string")]
    NoLineEnd,
    #[error("Protocol error: unbalanced quotes in request")]
    Quotes,
    #[error("Protocol error: too big request, more than {COMMAND_BYTES_MAX} bytes")]
    TooLarge,
    #[error("Protocol error: this is HTTP, which is served at http.listen")]
    Http,
}

/// Whether a command is a line of HTTP: a page in a browser could otherwise have its reader send commands.
pub(super) fn is_http(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}

/// Reads one command from the start of `bytes`: how long it is, or `None` where its end has not come yet.
/// `words` is empty where there is a command that says nothing.
pub(super) fn parse<'a>(bytes: &'a [u8], words: &mut Words<'a>) -> Result<Option<usize>, ProtocolError> {
    words.clear();
    let used = match bytes.first() {
        Some(b'*') => array(bytes, words)?,
        Some(_) => line(bytes, words)?,
        None => return Ok(None),
    };
    // Whatever pieces it came in, a command is too large or is not.
    let at_least = used.unwrap_or(bytes.len() + 1);
    if at_least > COMMAND_BYTES_MAX { Err(ProtocolError::TooLarge) } else { Ok(used) }
}

fn array<'a>(bytes: &'a [u8], words: &mut Words<'a>) -> Result<Option<usize>, ProtocolError> {
    let Some((count, mut at)) = number(bytes, 1, ProtocolError::WordCount)? else { return Ok(None) };
    if count > WORDS_MAX {
        return Err(ProtocolError::WordCount);
    }
    for _ in 0..count {
        match bytes.get(at) {
            Some(b'$') => {}
            Some(&other) => return Err(ProtocolError::NoBulk(other)),
            None => return Ok(None),
        }
        let Some((length, start)) = number(bytes, at + 1, ProtocolError::WordLength)? else {
            return Ok(None);
        };
        let length = usize::try_from(length).ok().filter(|length| *length <= COMMAND_BYTES_MAX);
        let end = start + length.ok_or(ProtocolError::WordLength)?;
        match bytes.get(end..end + 2) {
            Some(b"\r\n") => {}
            Some(_) => return Err(ProtocolError::NoLineEnd),
            None => return Ok(None),
        }
        words.push(Cow::Borrowed(&bytes[start..end]));
        at = end + 2;
    }
    Ok(Some(at))
}

/// The number at `at`, which has a line's end after it, and where it goes on from there.
#[inline]
fn number(bytes: &[u8], at: usize, wrong: ProtocolError) -> Result<Option<(i64, usize)>, ProtocolError> {
    let rest = bytes.get(at..).unwrap_or_default();
    let rest = &rest[..rest.len().min(NUMBER_BYTES_MAX)];
    let (negative, digits_from) = if rest.first() == Some(&b'-') { (true, 1) } else { (false, 0) };
    let mut value: i64 = 0;
    for (position, byte) in rest.iter().enumerate().skip(digits_from) {
        match byte {
            b'0'..=b'9' => {
                let next = value.checked_mul(10).and_then(|value| value.checked_add(i64::from(byte - b'0')));
                let Some(next) = next else { return Err(wrong) };
                value = next;
            }
            b'\r' if position > digits_from => {
                return match rest.get(position + 1) {
                    Some(b'\n') => Ok(Some((if negative { -value } else { value }, at + position + 2))),
                    None if rest.len() < NUMBER_BYTES_MAX => Ok(None),
                    _ => Err(wrong),
                };
            }
            _ => return Err(wrong),
        }
    }
    if rest.len() < NUMBER_BYTES_MAX { Ok(None) } else { Err(wrong) }
}

fn line<'a>(bytes: &'a [u8], words: &mut Words<'a>) -> Result<Option<usize>, ProtocolError> {
    let Some(end) = bytes.iter().take(COMMAND_BYTES_MAX).position(|byte| *byte == b'\n') else {
        return Ok(None);
    };
    let mut rest = bytes[..end].trim_ascii();
    while !rest.is_empty() {
        let plain = rest.iter().position(|byte| byte.is_ascii_whitespace() || is_quote(*byte));
        let plain = plain.unwrap_or(rest.len());
        let (word, length) = match rest.get(plain) {
            Some(byte) if is_quote(*byte) => unquoted(rest).map(|(word, end)| (Cow::Owned(word), end))?,
            _ => (Cow::Borrowed(&rest[..plain]), plain),
        };
        words.push(word);
        rest = rest[length..].trim_ascii_start();
    }
    Ok(Some(end + 1))
}

fn is_quote(byte: u8) -> bool {
    matches!(byte, b'"' | b'\'')
}

/// A word in which there are quotes, and where it ends.
fn unquoted(rest: &[u8]) -> Result<(Vec<u8>, usize), ProtocolError> {
    let (mut word, mut at) = (Vec::new(), 0);
    while let Some(&byte) = rest.get(at).filter(|byte| !byte.is_ascii_whitespace()) {
        at += 1;
        if is_quote(byte) {
            at = quoted(rest, at, byte, &mut word)?;
            if rest.get(at).is_some_and(|next| !next.is_ascii_whitespace()) {
                return Err(ProtocolError::Quotes);
            }
        } else {
            word.push(byte);
        }
    }
    Ok((word, at))
}

/// What is between quotes from `at` on goes to `word`; where it goes on after them.
fn quoted(rest: &[u8], mut at: usize, quote: u8, word: &mut Vec<u8>) -> Result<usize, ProtocolError> {
    loop {
        let (byte, length) = match (quote, &rest[at..]) {
            (_, []) => return Err(ProtocolError::Quotes),
            (_, [end, ..]) if *end == quote => return Ok(at + 1),
            (b'"', [b'\\', b'x', high, low, ..]) if hex(*high, *low).is_some() => {
                (hex(*high, *low).unwrap_or_default(), 4)
            }
            (b'"', [b'\\', escaped, ..]) => (unescaped(*escaped), 2),
            (_, [b'\\', b'\'', ..]) => (b'\'', 2),
            (_, [byte, ..]) => (*byte, 1),
        };
        word.push(byte);
        at += length;
    }
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? * 16 + digit(low)?)
}

fn unescaped(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Everything that a reader gets which has the bytes in these pieces: commands, and the error that ends it.
    fn read(pieces: &[&[u8]]) -> (Vec<Vec<Vec<u8>>>, Option<ProtocolError>) {
        let (mut buffer, mut commands) = (Vec::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            let mut from = 0;
            loop {
                let mut words = Words::new();
                match parse(&buffer[from..], &mut words) {
                    Ok(Some(used)) => {
                        assert!((1..=buffer.len() - from).contains(&used));
                        assert!(words.len() <= COMMAND_BYTES_MAX / 2);
                        from += used;
                        commands.push(words.iter().map(|word| word.to_vec()).collect());
                    }
                    Ok(None) => break,
                    Err(error) => return (commands, Some(error)),
                }
            }
            buffer.drain(..from);
            assert!(buffer.len() < COMMAND_BYTES_MAX, "what is kept is bounded");
        }
        (commands, None)
    }

    fn one(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Option<ProtocolError>> {
        match read(&[bytes]) {
            (mut commands, None) if commands.len() == 1 => Ok(commands.remove(0)),
            (_, error) => Err(error),
        }
    }

    fn written(command: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
        for word in command {
            bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }

    #[test]
    fn a_line_is_split_into_words() {
        let cases: [(&[u8], &[&[u8]]); 8] = [
            (b"PING\r\n", &[b"PING"]),
            (b"PING\n", &[b"PING"]),
            (b"  incr \t key  \r\n", &[b"incr", b"key"]),
            (b"\r\n", &[]),
            (b"ECHO \"a \\\"b\\\" \\x41\\n\\xg\"\r\n", &[b"ECHO", b"a \"b\" A\nxg"]),
            (b"ECHO 'it\\'s \\n'\r\n", &[b"ECHO", b"it's \\n"]),
            (b"ECHO pre\"fix\"\r\n", &[b"ECHO", b"prefix"]),
            (b"ECHO \"\"\r\n", &[b"ECHO", b""]),
        ];
        for (line, words) in cases {
            assert_eq!(one(line).unwrap(), words, "{}", line.escape_ascii());
        }
        for line in [&b"ECHO \"a\r\n"[..], b"ECHO 'a\r\n", b"ECHO \"a\"b\r\n", b"ECHO \"a\\\r\n"] {
            assert_eq!(one(line), Err(Some(ProtocolError::Quotes)), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn what_is_no_command_is_told_apart() {
        for (bytes, error) in [
            (&b"*x\r\n"[..], ProtocolError::WordCount),
            (b"*1025\r\n", ProtocolError::WordCount),
            (b"*+1\r\n", ProtocolError::WordCount),
            (b"*\r\n", ProtocolError::WordCount),
            (b"*99999999999999999999999", ProtocolError::WordCount),
            (b"*1\r\r", ProtocolError::WordCount),
            (b"*1\r\n:1\r\n", ProtocolError::NoBulk(b':')),
            (b"*1\r\n$-1\r\n", ProtocolError::WordLength),
            (b"*1\r\n$65537\r\n", ProtocolError::WordLength),
            (b"*1\r\n$4\r\nPINGPING\r\n", ProtocolError::NoLineEnd),
            (&b"a".repeat(COMMAND_BYTES_MAX), ProtocolError::TooLarge),
            (&[&b"*1\r\n$65535\r\n"[..], &b"a".repeat(COMMAND_BYTES_MAX)].concat(), ProtocolError::TooLarge),
        ] {
            assert_eq!(one(bytes), Err(Some(error)), "{}", bytes[..bytes.len().min(30)].escape_ascii());
        }
        for nothing in [&b"*0\r\n"[..], b"*-1\r\n"] {
            assert_eq!(one(nothing).unwrap(), Vec::<Vec<u8>>::new());
        }
    }

    proptest! {
        #[test]
        fn commands_are_read_the_same_in_whatever_pieces_they_come(
            commands in vec(vec(vec(any::<u8>(), 0..40), 1..8), 1..8),
            cuts in vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let bytes: Vec<u8> = commands.iter().flat_map(|command| written(command)).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([bytes.len()]) {
                pieces.push(&bytes[from..cut]);
                from = cut;
            }
            prop_assert_eq!(read(&pieces), (commands, None));
        }

        #[test]
        fn garbage_is_read_the_same_in_whatever_pieces_it_comes(
            bytes in vec(prop_oneof![
                4 => prop::sample::select(b"*$-0123456789\r\n \"'\\xaf".to_vec()),
                1 => any::<u8>(),
            ], 0..300),
        ) {
            let each: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(read(&each), read(&[&bytes]));
        }
    }
}
