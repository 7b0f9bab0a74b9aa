//! An S3-compatible service as an object store, by its vendor's own client.
//!
//! Credentials come from the environment, a file, or web identity, in this order. Requests are retried with exponential backoff and jitter by the
//! client, each attempt and each call under a deadline. A create-only put that meets an object compares it: an earlier try whose answer was
//! lost is a success.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_config::{BehaviorVersion, Region};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use bytes::{Bytes, BytesMut};

use super::{ObjectInfo, ObjectStore, Put, PutMode, StoreError, validate_key, validate_prefix, validate_range};
use crate::codec::crc32c_of;

/// Bodies up to this length go in one request, larger ones in parts of [`PART_BYTES`].
const SINGLE_BYTES: u64 = 64 << 20;
const PART_BYTES: usize = 16 << 20;
const ATTEMPTS: u32 = 5;
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);
const CALL_TIMEOUT: Duration = Duration::from_secs(180);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a bucket is and how it is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct S3Settings {
    /// The bucket; must exist.
    pub bucket: String,
    /// URL of the service; absent: AWS's for the region.
    pub endpoint: Option<String>,
    /// Region; absent: `us-east-1`.
    pub region: Option<String>,
    /// Whether the bucket stands in the path instead of the host name.
    pub path_style: bool,
    /// A file with credentials in AWS's format; absent: that which AWS_SHARED_CREDENTIALS_FILE names, or `~/.aws/credentials`.
    pub credentials_file: Option<PathBuf>,
}

/// Objects in a bucket. Cheap to clone.
#[derive(Clone, Debug)]
pub struct S3Store {
    client: Client,
    bucket: String,
}

impl S3Store {
    /// Sets the client up; nothing is sent yet.
    ///
    /// # Errors
    /// `Refused` for an endpoint that is no URL.
    pub async fn new(settings: S3Settings) -> Result<S3Store, StoreError> {
        if let Some(endpoint) = &settings.endpoint
            && !(endpoint.starts_with("http://") || endpoint.starts_with("https://"))
        {
            let message = format!("endpoint `{endpoint}` must begin with http:// or https://");
            return Err(StoreError::Refused { key: String::new(), operation: "setting up the store", message });
        }
        let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let region = Region::new(settings.region.unwrap_or_else(|| "us-east-1".to_owned()));
        let provider = ProviderConfig::without_region().with_region(Some(region.clone())).with_http_client(http.clone());
        let mut profile = ProfileFileCredentialsProvider::builder().configure(&provider);
        if let Some(file) = &settings.credentials_file {
            profile = profile.profile_files(EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, file).build());
        }
        let web_identity = WebIdentityTokenCredentialsProvider::builder().configure(&provider).build();
        let credentials = CredentialsProviderChain::first_try("environment", EnvironmentVariableCredentialsProvider::new())
            .or_else("file", profile.build())
            .or_else("web identity", web_identity);
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .operation_timeout(CALL_TIMEOUT)
            .build();
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .region(region)
            .credentials_provider(credentials)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .timeout_config(timeouts)
            // Checksums are ours: CRC-32C with each put, and what is read is checked against what was written.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .force_path_style(settings.path_style);
        if let Some(endpoint) = settings.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Ok(S3Store { client: Client::from_conf(config.build()), bucket: settings.bucket })
    }

    async fn put_single(&self, key: &str, body: Bytes, crc32c: u32) -> Result<(), StoreError> {
        let request = self.client.put_object().bucket(&self.bucket).key(key).if_none_match("*");
        let request = request.checksum_crc32_c(base64(crc32c)).content_length(i64::try_from(body.len()).unwrap_or(i64::MAX));
        let sent = request.body(ByteStream::new(SdkBody::from(body))).send().await;
        sent.map(drop).map_err(|error| failure(key, "put", error))
    }

    async fn put_parts(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let failed = |error| failure(key, "put", error);
        let begun = self.client.create_multipart_upload().bucket(&self.bucket).key(key).send().await;
        let begun = begun.map_err(|error| failure(key, "put", error))?;
        let upload = begun.upload_id().unwrap_or_default().to_owned();
        let result = async {
            let mut parts = Vec::new();
            for (index, start) in (0..body.len()).step_by(PART_BYTES).enumerate() {
                let number = i32::try_from(index + 1).unwrap_or(i32::MAX);
                let part = body.slice(start..(start + PART_BYTES).min(body.len()));
                let request = self.client.upload_part().bucket(&self.bucket).key(key).upload_id(&upload).part_number(number);
                let sent = request.body(ByteStream::new(SdkBody::from(part))).send().await;
                let sent = sent.map_err(|error| failure(key, "put", error))?;
                parts.push(CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag().map(str::to_owned)).build());
            }
            let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
            let complete = self.client.complete_multipart_upload().bucket(&self.bucket).key(key).upload_id(&upload);
            complete.multipart_upload(parts).if_none_match("*").send().await.map(drop).map_err(failed)
        };
        let result = result.await;
        if result.is_err() {
            // Parts of an upload that came to nothing would cost for ever; if this fails too, the bucket's own rules must clean up.
            let _ = self.client.abort_multipart_upload().bucket(&self.bucket).key(key).upload_id(&upload).send().await;
        }
        result
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn put(&self, key: &str, body: Vec<Bytes>, mode: PutMode) -> Result<Put, StoreError> {
        let PutMode::CreateOnly = mode;
        validate_key(key)?;
        let put = Put { bytes: body.iter().map(|chunk| chunk.len() as u64).sum(), crc32c: crc32c_of(&body) };
        let mut joined = BytesMut::with_capacity(usize::try_from(put.bytes).unwrap_or(0));
        body.iter().for_each(|chunk| joined.extend_from_slice(chunk));
        let joined = joined.freeze();
        let sent = if put.bytes <= SINGLE_BYTES {
            self.put_single(key, joined, put.crc32c).await
        } else {
            self.put_parts(key, joined).await
        };
        match sent {
            Ok(()) => Ok(put),
            Err(error @ StoreError::AlreadyExists { .. }) => match self.verify(key, put).await {
                Ok(()) => Ok(put),
                Err(_) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        validate_key(key)?;
        let sent = self.client.get_object().bucket(&self.bucket).key(key).send().await;
        let object = sent.map_err(|error| failure(key, "get", error))?;
        collect(key, object.body).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        validate_key(key)?;
        validate_range(key, &range)?;
        let header = format!("bytes={}-{}", range.start, range.end - 1);
        let sent = self.client.get_object().bucket(&self.bucket).key(key).range(header).send().await;
        let object = sent.map_err(|error| match failure(key, "get", error) {
            StoreError::Refused { message, .. } if message.contains("InvalidRange") => beyond(key, &range, message),
            other => other,
        })?;
        let bytes = collect(key, object.body).await?;
        if bytes.len() as u64 != range.end - range.start {
            return Err(beyond(key, &range, format!("the store sent {} bytes", bytes.len())));
        }
        Ok(bytes)
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo, StoreError> {
        validate_key(key)?;
        let sent = self.client.head_object().bucket(&self.bucket).key(key).send().await;
        let object = sent.map_err(|error| failure(key, "head", error))?;
        let bytes = u64::try_from(object.content_length().unwrap_or(0)).unwrap_or(0);
        Ok(ObjectInfo { key: key.to_owned(), bytes })
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        validate_key(key)?;
        let sent = self.client.delete_object().bucket(&self.bucket).key(key).send().await;
        match sent.map_err(|error| failure(key, "delete", error)) {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectInfo>, StoreError> {
        validate_prefix(prefix)?;
        let mut found: Vec<ObjectInfo> = Vec::new();
        let mut after = start_after.map(str::to_owned);
        while found.len() < limit {
            let wanted = i32::try_from((limit - found.len()).min(1000)).unwrap_or(1000);
            let request =
                self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix).max_keys(wanted).set_start_after(after);
            let page = request.send().await.map_err(|error| failure(prefix, "list", error))?;
            for object in page.contents() {
                let bytes = u64::try_from(object.size().unwrap_or(0)).unwrap_or(0);
                found.push(ObjectInfo { key: object.key().unwrap_or_default().to_owned(), bytes });
            }
            if !page.is_truncated().unwrap_or(false) {
                break;
            }
            after = found.last().map(|object| object.key.clone());
        }
        Ok(found)
    }
}

async fn collect(key: &str, body: ByteStream) -> Result<Bytes, StoreError> {
    let collected = body.collect().await;
    let cut = |error: &dyn std::fmt::Display| StoreError::Unavailable {
        key: key.to_owned(),
        operation: "get",
        message: error.to_string(),
    };
    Ok(collected.map_err(|error| cut(&error))?.into_bytes())
}

fn beyond(key: &str, range: &Range<u64>, why: String) -> StoreError {
    StoreError::InvalidRange { key: key.to_owned(), start: range.start, end: range.end, why }
}

/// The checksum as S3 takes it: base64 of its four bytes, most significant first.
fn base64(crc32c: u32) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = u64::from(crc32c) << 4;
    let digits = (0..6).rev().map(|place| char::from(ALPHABET[(bits >> (6 * place)) as usize & 63]));
    digits.chain("==".chars()).collect()
}

/// Sorts the client's errors by what a caller does next.
fn failure<E: ProvideErrorMetadata + std::error::Error + 'static>(
    key: &str,
    operation: &'static str,
    error: SdkError<E, aws_smithy_runtime_api::client::orchestrator::HttpResponse>,
) -> StoreError {
    let key = key.to_owned();
    let status = error.raw_response().map(|response| response.status().as_u16());
    let code = error.code().unwrap_or_default().to_owned();
    let mut message = if code.is_empty() { String::new() } else { format!("{code}: ") };
    message.push_str(&innermost(&error));
    match (status, code.as_str()) {
        (_, "NoSuchBucket") => StoreError::Refused { key, operation, message },
        (Some(404), _) => StoreError::NotFound { key },
        (Some(412), _) | (_, "PreconditionFailed") => StoreError::AlreadyExists { key },
        // Two puts of one key at once: one of them wins, and the next try sees it.
        (Some(409), _) => StoreError::Unavailable { key, operation, message },
        (Some(507), _) => StoreError::Full { key, message },
        (Some(429 | 500..=599), _) if operation == "put" => StoreError::Ambiguous { key, operation, message },
        (Some(429 | 500..=599), _) => StoreError::Unavailable { key, operation, message },
        (Some(_), _) => StoreError::Refused { key, operation, message },
        // No answer: credentials that cannot be found fail while the request is built.
        (None, _) if matches!(error, SdkError::ConstructionFailure(_)) => StoreError::Refused { key, operation, message },
        (None, _) if operation == "put" => StoreError::Ambiguous { key, operation, message },
        (None, _) => StoreError::Unavailable { key, operation, message },
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_written_as_s3_reads_it() {
        // RFC 4648: the bytes 0xde 0xad 0xbe 0xef.
        assert_eq!(base64(0xdead_beef), "3q2+7w==");
        assert_eq!(base64(0), "AAAAAA==");
    }
}
