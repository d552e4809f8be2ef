//! The least a hyper server can do: one constant answer, whatever is asked.
//!
//! `bare_hyper ADDRESS BODY [HEADER=VALUE]...` is what `cargo xtask bench http` measures snowmint against.

use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, body};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let usage = "usage: bare_hyper ADDRESS BODY [HEADER=VALUE]...";
    let listener = TcpListener::bind(arguments.next().ok_or(usage)?).await?;
    let body = Bytes::from(arguments.next().ok_or(usage)?);
    let headers = Arc::new(arguments.map(|text| header(&text)).collect::<Result<HeaderMap, _>>()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (body, headers) = (body.clone(), Arc::clone(&headers));
        tokio::spawn(async move {
            let answer = service_fn(move |_: Request<body::Incoming>| {
                let mut response = Response::new(Full::new(body.clone()));
                response.headers_mut().clone_from(&headers);
                async { Ok::<_, Infallible>(response) }
            });
            // A connection that breaks is the load generator's to count.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), Box<dyn Error>> {
    let (name, value) = text.split_once('=').ok_or("a header is NAME=VALUE")?;
    Ok((name.parse()?, value.parse()?))
}
