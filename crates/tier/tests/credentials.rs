//! Where the S3 store's credentials come from: the environment, a file, web identity. Against a service that records what it is asked, and in
//! processes of their own, for the environment belongs to a whole process.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests start processes and listen")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use tidegate_tier::{ObjectStore, S3Settings, S3Store};

/// Set for a child; its value is `endpoint region style`.
const CHILD: &str = "TIDEGATE_CREDENTIALS_CHILD";
const FILE: &str = "TIDEGATE_CREDENTIALS_FILE";

/// A request's head and body.
fn request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let read = stream.read(&mut chunk).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return Some(text);
        }
    }
}

/// STS and S3 in one: gives temporary credentials for a token, and an object to whoever asks.
fn serve() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let requests = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let Some(text) = request(&mut stream) else { continue };
            let (kind, answer) = if text.contains("Action=AssumeRoleWithWebIdentity") {
                let credentials = "<AccessKeyId>ASIATEMPORARY</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>\
                    <SessionToken>the-session</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>";
                let result = format!(
                    "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleWithWebIdentityResult>\
                     <Credentials>{credentials}</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
                );
                ("text/xml", result)
            } else {
                ("application/octet-stream", "content".to_owned())
            };
            requests.lock().unwrap().push(text);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                answer.len()
            );
            let _ = stream.write_all((head + &answer).as_bytes());
        }
    });
    (port, seen)
}

/// Not a test by itself: what the other tests run in a process with an environment of its own.
#[tokio::test]
async fn child_reads_one_object() {
    let Ok(arguments) = std::env::var(CHILD) else { return };
    let words: Vec<&str> = arguments.split(' ').collect();
    let settings = S3Settings {
        bucket: "events".to_owned(),
        endpoint: Some(words[0].to_owned()),
        region: Some(words[1].to_owned()),
        path_style: words[2] == "path",
        credentials_file: std::env::var_os(FILE).map(Into::into),
    };
    let store = S3Store::new(settings).await.unwrap();
    assert_eq!(store.get("a/key").await.unwrap(), &b"content"[..]);
}

/// Runs the child with nothing of AWS in its environment but what is given.
fn child(arguments: &str, home: &Path, environment: &[(&str, &str)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_reads_one_object", "--nocapture"]).env(CHILD, arguments).env("HOME", home);
    std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_")).for_each(|(name, _)| {
        command.env_remove(name);
    });
    let output = command.envs(environment.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}

fn header<'a>(request: &'a str, name: &str) -> &'a str {
    let line = request.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
    line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
}

#[test]
fn a_web_identity_token_becomes_temporary_credentials() {
    let (folder, (port, seen)) = (tempfile::tempdir().unwrap(), serve());
    let token = folder.path().join("token");
    std::fs::write(&token, "a-token-of-the-cluster").unwrap();
    let endpoint = format!("http://127.0.0.1:{port}");
    let environment = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/tidegate"),
        ("AWS_ROLE_SESSION_NAME", "broker-1"),
        ("AWS_ENDPOINT_URL_STS", &endpoint),
    ];
    child(&format!("{endpoint} eu-west-9 path"), folder.path(), &environment);
    let seen = seen.lock().unwrap();
    let sts = seen.iter().find(|text| text.contains("Action=AssumeRoleWithWebIdentity")).unwrap();
    assert!(sts.contains("WebIdentityToken=a-token-of-the-cluster") && sts.contains("RoleSessionName=broker-1"), "{sts}");
    let get = seen.iter().find(|text| text.starts_with("GET ")).unwrap();
    assert!(get.starts_with("GET /events/a/key"), "path style: {get}");
    assert_eq!(header(get, "x-amz-security-token"), "the-session");
    let signed = header(get, "authorization");
    assert!(signed.contains("Credential=ASIATEMPORARY/") && signed.contains("/eu-west-9/s3/"), "{signed}");
}

#[test]
fn the_environment_comes_before_the_file_and_the_file_before_web_identity() {
    let (folder, (port, seen)) = (tempfile::tempdir().unwrap(), serve());
    let file = folder.path().join("credentials");
    std::fs::write(&file, "[default]\naws_access_key_id = FROMFILE\naws_secret_access_key = secret\n").unwrap();
    let endpoint = format!("http://127.0.0.1:{port} us-east-1 path");
    let in_file = (FILE, file.to_str().unwrap());
    let key = ("AWS_ACCESS_KEY_ID", "FROMENVIRONMENT");
    child(&endpoint, folder.path(), &[key, ("AWS_SECRET_ACCESS_KEY", "secret"), in_file]);
    child(
        &endpoint,
        folder.path(),
        &[in_file, ("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere"), ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r")],
    );
    let used: Vec<String> = seen.lock().unwrap().iter().map(|text| header(text, "authorization").to_owned()).collect();
    assert_eq!(used.len(), 2, "{used:?}");
    assert!(used[0].contains("Credential=FROMENVIRONMENT/") && used[1].contains("Credential=FROMFILE/"), "{used:?}");
}
