//! Just enough of HTTP/1.1 and of the service's JSON to see where an answer ends and which IDs it has.

use std::ops::Range;

use super::seen::Run;

/// The longest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The longest error code that is told, in bytes.
const CODE_BYTES_MAX: usize = 40;

/// A whole answer in a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Range<usize>,
    pub(super) keep_alive: bool,
}

/// An answer that is not the service's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed answer")]
pub(super) struct Malformed;

impl Answer {
    /// The answer at the start of `buffer`, if all of it is there.
    pub(super) fn read(buffer: &[u8]) -> Result<Option<Self>, Malformed> {
        let Some(head_end) = find(buffer, b"\r\n\r\n") else {
            return if buffer.len() > HEAD_BYTES_MAX { Err(Malformed) } else { Ok(None) };
        };
        let mut lines = buffer[..head_end].split(|byte| *byte == b'\n');
        let status = lines.next().and_then(|line| line.strip_prefix(b"HTTP/1.1 ")).ok_or(Malformed)?;
        let (status, _) = number(status).ok_or(Malformed)?;
        let mut length = None;
        let mut keep_alive = true;
        for line in lines {
            if let Some(value) = header(line, b"content-length:") {
                length = number(value).map(|(length, _)| length);
            } else if let Some(value) = header(line, b"connection:") {
                keep_alive = !value.eq_ignore_ascii_case(b"close");
            }
        }
        let start = head_end + 4;
        let length = length.and_then(|length| usize::try_from(length).ok()).ok_or(Malformed)?;
        let end = start.checked_add(length).ok_or(Malformed)?;
        if buffer.len() < end {
            return Ok(None);
        }
        // One request, one answer.
        if buffer.len() > end {
            return Err(Malformed);
        }
        let status = u16::try_from(status).map_err(|_| Malformed)?;
        Ok(Some(Self { status, body: start..end, keep_alive }))
    }

    pub(super) fn is_success(&self) -> bool {
        self.status == 200
    }
}

/// The ID of `{"id":…}`.
pub(super) fn single(body: &[u8], mut each: impl FnMut(Run)) -> Result<u64, Malformed> {
    let (id, _) = number_after(body, b"\"id\":").ok_or(Malformed)?;
    each(Run { first: id, last: id });
    Ok(1)
}

/// The IDs of `{"ids":[…]}`, those in sequence together.
pub(super) fn list(body: &[u8], mut each: impl FnMut(Run)) -> Result<u64, Malformed> {
    let mut rest = after(body, b"\"ids\":[").ok_or(Malformed)?;
    let mut count = 0;
    let mut run: Option<Run> = None;
    loop {
        let (id, behind) = number(rest).ok_or(Malformed)?;
        count += 1;
        match &mut run {
            Some(run) if run.last.checked_add(1) == Some(id) => run.last = id,
            run => {
                let ended = run.replace(Run { first: id, last: id });
                ended.into_iter().for_each(&mut each);
            }
        }
        match behind.first() {
            Some(b',') => rest = &behind[1..],
            Some(b']') => break,
            _ => return Err(Malformed),
        }
    }
    run.into_iter().for_each(&mut each);
    Ok(count)
}

/// The ranges of `{"ranges":[{"first":…, "count":…}, …]}`.
pub(super) fn ranges(body: &[u8], mut each: impl FnMut(Run)) -> Result<u64, Malformed> {
    let mut rest = after(body, b"\"ranges\":[").ok_or(Malformed)?;
    let mut total = 0;
    while let Some((first, behind)) = number_after(rest, b"\"first\":") {
        let (count, behind) = number_after(behind, b"\"count\":").ok_or(Malformed)?;
        let last = count.checked_sub(1).and_then(|more| first.checked_add(more)).ok_or(Malformed)?;
        each(Run { first, last });
        total += count;
        rest = behind;
    }
    Ok(total)
}

/// The code of an answer that is an error.
pub(super) fn error_code(status: u16, body: &[u8]) -> String {
    after(body, b"\"code\":\"")
        .and_then(|rest| {
            rest.iter().take(CODE_BYTES_MAX).position(|byte| *byte == b'"').map(|end| &rest[..end])
        })
        .and_then(|code| std::str::from_utf8(code).ok())
        .map_or_else(|| format!("HTTP {status}"), str::to_owned)
}

fn header<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

fn number_after<'a>(text: &'a [u8], key: &[u8]) -> Option<(u64, &'a [u8])> {
    number(after(text, key)?)
}

fn after<'a>(text: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    find(text, key).map(|at| &text[at + key.len()..])
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// The whole number at the start of `text`, and what is behind it.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let text = text.trim_ascii_start();
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 {
        return None;
    }
    let value = text[..digits]
        .iter()
        .try_fold(0_u64, |value, digit| value.checked_mul(10)?.checked_add(u64::from(digit - b'0')))?;
    Some((value, &text[digits..]))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const WHOLE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nconnection: close\r\n\r\n{\"id\":7}";

    #[test]
    fn an_answer_is_there_when_its_last_byte_is() {
        for length in 0..WHOLE.len() {
            assert_eq!(Answer::read(&WHOLE[..length]), Ok(None));
        }
        let answer = Answer::read(WHOLE).unwrap().unwrap();
        assert_eq!((answer.status, answer.keep_alive), (200, false));
        assert_eq!(&WHOLE[answer.body], b"{\"id\":7}");
    }

    #[test]
    fn what_is_no_answer() {
        let too_much = [WHOLE, b"x"].concat();
        for text in [&b"SSH-2.0\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 x\r\n\r\n", &too_much] {
            assert_eq!(Answer::read(text), Err(Malformed));
        }
        assert_eq!(Answer::read(&vec![b'x'; HEAD_BYTES_MAX + 1]), Err(Malformed));
    }

    fn read(
        body: &str,
        reader: impl FnOnce(&[u8], &mut dyn FnMut(Run)) -> Result<u64, Malformed>,
    ) -> Result<(u64, Vec<(u64, u64)>), Malformed> {
        let mut runs = Vec::new();
        let count = reader(body.as_bytes(), &mut |run: Run| runs.push((run.first, run.last)))?;
        Ok((count, runs))
    }

    #[test]
    fn ids_are_read_from_every_kind_of_answer() {
        let one = read("{\"id\": 12,\"id_str\":\"12\"}", |body, each| single(body, each));
        assert_eq!(one, Ok((1, vec![(12, 12)])));
        let three = read("{\"ids\":[4, 5,9],\"count\":3}", |body, each| list(body, each));
        assert_eq!(three, Ok((3, vec![(4, 5), (9, 9)])));
        let body = r#"{"ranges":[{"first":10,"first_str":"10","count":5},{"first":30,"count":1}],"count":6}"#;
        assert_eq!(read(body, |body, each| ranges(body, each)), Ok((6, vec![(10, 14), (30, 30)])));
    }

    #[test]
    fn what_has_no_ids_is_malformed() {
        for body in ["", "{\"ids\":[]}", "{\"ids\":[1;2]}", "{\"ids\":[1", "{\"ids\":[99999999999999999999]}"]
        {
            assert_eq!(read(body, |body, each| list(body, each)), Err(Malformed), "{body}");
        }
        assert_eq!(read("{\"id\":\"a\"}", |body, each| single(body, each)), Err(Malformed));
        for body in ["{}", "{\"ranges\":[{\"first\":1}]}", "{\"ranges\":[{\"first\":1,\"count\":0}]}"] {
            assert_eq!(read(body, |body, each| ranges(body, each)), Err(Malformed), "{body}");
        }
    }

    #[test]
    fn errors_go_by_their_code() {
        assert_eq!(error_code(503, br#"{"error":{"code":"SEQUENCE_OVERFLOW"}}"#), "SEQUENCE_OVERFLOW");
        assert_eq!(error_code(502, b"Bad Gateway"), "HTTP 502");
    }
}
