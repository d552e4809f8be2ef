//! Buckets of S3: one rule among those of others.

use std::fmt::Write;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use md5::{Digest, Md5};
use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpRequest, HttpRequestBody};
use quick_xml::Reader;
use quick_xml::escape::{escape, unescape};
use quick_xml::events::Event;

use super::Ages;
use crate::audit::AuditError;
use crate::config::StoreUrl;
use crate::objects::S3;

/// What the names of all objects of an archive start with.
const KEYS: &str = "year=";

/// The rule's name, in front of the archive's prefix.
const RULE: &str = "snowmint-audit";

/// The answer where a bucket has no rules.
const NOT_FOUND: u16 = 404;

/// Of a rule that is there.
struct Rule<'a> {
    id: String,
    text: &'a str,
}

pub(super) async fn print(s3: &S3, url: &StoreUrl, ages: Ages) -> Result<Vec<String>, AuditError> {
    let error = |problem| AuditError::Bucket { url: url.to_string(), problem };
    let there = ask(s3, "GET", String::new()).await.map_err(error)?;
    let mut lines = vec!["to be set:".to_owned(), rule(s3, ages)];
    let rules = rules(&there).map_err(error)?;
    lines.push(if rules.is_empty() { "there are no rules" } else { "there are:" }.to_owned());
    lines.extend(rules.iter().map(|rule| rule.text.to_owned()));
    Ok(lines)
}

/// Puts the rule among those that are there. Whoever changes others at the same moment may undo it, or be undone:
/// S3 takes all rules of a bucket at once.
pub(super) async fn apply(s3: &S3, url: &StoreUrl, ages: Ages) -> Result<Vec<String>, AuditError> {
    let error = |problem| AuditError::Bucket { url: url.to_string(), problem };
    let there = ask(s3, "GET", String::new()).await.map_err(error)?;
    let id = rule_id(s3);
    let others: Vec<_> = rules(&there).map_err(error)?.into_iter().filter(|rule| rule.id != id).collect();
    let texts: String = others.iter().map(|rule| rule.text).collect();
    let body = format!(
        "<LifecycleConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{texts}{}</LifecycleConfiguration>",
        rule(s3, ages)
    );
    ask(s3, "PUT", body).await.map_err(error)?;
    Ok(vec![format!("the rule {id} is set; {} others were kept", others.len())])
}

fn rule_id(s3: &S3) -> String {
    if s3.prefix.is_empty() { RULE.to_owned() } else { format!("{RULE}:{}", s3.prefix) }
}

fn rule(s3: &S3, ages: Ages) -> String {
    let Ages { warm_days, cold_days, delete_days } = ages;
    let id = rule_id(s3);
    let prefix = if s3.prefix.is_empty() { KEYS.to_owned() } else { format!("{}/{KEYS}", s3.prefix) };
    let mut text = format!(
        "<Rule><ID>{}</ID><Filter><Prefix>{}</Prefix></Filter><Status>Enabled</Status>",
        escape(&id),
        escape(&prefix)
    );
    for (days, class) in [(warm_days, "STANDARD_IA"), (cold_days, "GLACIER")] {
        let _ =
            write!(text, "<Transition><Days>{days}</Days><StorageClass>{class}</StorageClass></Transition>");
    }
    let _ = write!(text, "<Expiration><Days>{delete_days}</Days></Expiration></Rule>");
    text
}

/// The rules in an answer, as they are.
fn rules(xml: &str) -> Result<Vec<Rule<'_>>, String> {
    let rule = |(text, inside): (_, &str)| {
        let id = elements(inside, b"ID")?.first().map(|(_, id)| unescape(id)).transpose();
        let id = id.map_err(|error| error.to_string())?.unwrap_or_default().into_owned();
        Ok(Rule { id, text })
    };
    elements(xml, b"Rule")?.into_iter().map(rule).collect()
}

/// The elements of that name: all of each, and what is in it.
fn elements<'a>(xml: &'a str, name: &[u8]) -> Result<Vec<(&'a str, &'a str)>, String> {
    let wrong = |error: quick_xml::Error| format!("its rules cannot be read: {error}");
    let at = |position: u64| usize::try_from(position).unwrap_or(usize::MAX);
    let mut reader = Reader::from_str(xml);
    let mut found = Vec::new();
    loop {
        let start = at(reader.buffer_position());
        match reader.read_event().map_err(wrong)? {
            Event::Eof => return Ok(found),
            Event::Start(tag) if tag.local_name().as_ref() == name => {
                let inside = reader.read_to_end(tag.name()).map_err(wrong)?;
                let all = &xml[start..at(reader.buffer_position())];
                found.push((all, &xml[at(inside.start)..at(inside.end)]));
            }
            _ => {}
        }
    }
}

/// Asks for the bucket's rules, or puts them.
async fn ask(s3: &S3, method: &str, body: String) -> Result<String, String> {
    let credential = s3.client.credentials().get_credential().await.map_err(|error| error.to_string())?;
    let md5 = BASE64_STANDARD.encode(Md5::digest(&body));
    let mut request = HttpRequest::new(HttpRequestBody::from(body));
    *request.method_mut() = method.parse().expect("it is a method");
    let uri = format!("{}/{}?lifecycle", s3.endpoint, s3.bucket);
    *request.uri_mut() = uri.parse().map_err(|error| format!("{uri}: {error}"))?;
    if method == "PUT" {
        // Amazon wants a checksum; this is the oldest, which is known to whatever speaks like it.
        request.headers_mut().insert("content-md5", md5.parse().expect("it is text"));
    }
    let signer = AwsAuthorizer::new(&credential, "s3", &s3.region);
    signer.try_authorize(&mut request, None).map_err(|error| error.to_string())?;
    let answer = s3.http.execute(request).await.map_err(|error| error.to_string())?;
    let (head, body) = answer.into_parts();
    let body = body.bytes().await.map_err(|error| error.to_string())?;
    let body = String::from_utf8_lossy(&body).into_owned();
    match head.status {
        status if status.is_success() => Ok(body),
        status if status.as_u16() == NOT_FOUND && body.contains("NoSuchLifecycleConfiguration") => {
            Ok(String::new())
        }
        status => Err(format!("it answers {method} of its lifecycle with {status}: {body}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn rules_are_taken_as_they_are() {
        let xml = "<?xml version=\"1.0\"?><LifecycleConfiguration xmlns=\"x\">\n <Rule><ID>a &amp; b</ID><Prefix/></Rule>\
                   <Rule><Status>Enabled</Status><Transition><Days>1</Days></Transition></Rule></LifecycleConfiguration>";
        let rules = rules(xml).unwrap();
        let ids: Vec<_> = rules.iter().map(|rule| rule.id.as_str()).collect();
        assert_eq!(ids, ["a & b", ""]);
        assert_eq!(rules[0].text, "<Rule><ID>a &amp; b</ID><Prefix/></Rule>");
        assert!(rules[1].text.ends_with("</Transition></Rule>"), "{}", rules[1].text);
        assert!(super::rules("").unwrap().is_empty());
        assert!(super::rules("<Rule><ID>").is_err());
    }
}
