//! A store whose every call ends: for HDFS, whose client waits for a dead name node for ever.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};

use super::REQUEST_MS_MAX;

/// Gives each call, each part and each piece of a stream [`REQUEST_MS_MAX`].
#[derive(Debug)]
pub(super) struct Bounded<S>(pub(super) S);

/// Waits for a call, but not for ever.
async fn bounded<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(Duration::from_millis(REQUEST_MS_MAX), call).await.unwrap_or_else(|_| Err(late()))
}

fn late() -> Error {
    Error::Generic { store: "HDFS", source: format!("no answer within {REQUEST_MS_MAX} ms").into() }
}

/// Waits for each piece of a stream, but not for ever. One that came too late is the last.
fn bounded_stream<T: Send + 'static>(pieces: BoxStream<'static, Result<T>>) -> BoxStream<'static, Result<T>> {
    let next = |pieces: Option<BoxStream<'static, Result<T>>>| async move {
        let mut pieces = pieces?;
        match tokio::time::timeout(Duration::from_millis(REQUEST_MS_MAX), pieces.next()).await {
            Ok(piece) => Some((piece?, Some(pieces))),
            Err(_) => Some((Err(late()), None)),
        }
    };
    stream::unfold(Some(pieces), next).boxed()
}

impl<S: fmt::Display> fmt::Display for Bounded<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for Bounded<S> {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        bounded(self.0.put_opts(location, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let upload = bounded(self.0.put_multipart_opts(location, options)).await?;
        Ok(Box::new(BoundedUpload(upload)))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let result = bounded(self.0.get_opts(location, options)).await?;
        let payload = match result.payload {
            GetResultPayload::Stream(pieces) => GetResultPayload::Stream(bounded_stream(pieces)),
            file @ GetResultPayload::File(..) => file,
        };
        Ok(GetResult { payload, ..result })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        bounded(self.0.get_ranges(location, ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        bounded_stream(self.0.delete_stream(locations))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        bounded_stream(self.0.list(prefix))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        bounded(self.0.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        bounded(self.0.copy_opts(from, to, options)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        bounded(self.0.rename_opts(from, to, options)).await
    }
}

#[derive(Debug)]
struct BoundedUpload(Box<dyn MultipartUpload>);

#[async_trait]
impl MultipartUpload for BoundedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        Box::pin(bounded(self.0.put_part(data)))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        bounded(self.0.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        bounded(self.0.abort()).await
    }
}
