//! The command behind a proxy that is the only way to AWS, and that signs with certificates of its own.

use std::{
    io::{BufRead, BufReader, ErrorKind, Write},
    net::TcpListener,
    process::{Child, Command, Stdio},
};

/// The command, requesting a status in a region whose endpoint cannot be reached here.
fn command(variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_changeover"));
    command
        .args(["status", "datastore-token", "--region", "eu-west-1"])
        .env_clear()
        .envs([("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", "secret")])
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The first line that the command sends to the proxy, or `None` if it ends without sending any.
fn first_line(proxy: &TcpListener, command: &mut Child) -> Option<String> {
    proxy.set_nonblocking(true).unwrap();
    loop {
        match proxy.accept() {
            Ok((mut connection, _)) => {
                connection.set_nonblocking(false).unwrap();
                let mut line = String::new();
                BufReader::new(&connection).read_line(&mut line).unwrap();
                connection.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").unwrap();
                return Some(line);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if command.try_wait().unwrap().is_some() {
                    return None;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn requests_use_proxy_from_environment() {
    let proxy = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    for variable in ["HTTPS_PROXY", "https_proxy"] {
        let mut command = command(&[(variable, &address)]).spawn().unwrap();
        let line = first_line(&proxy, &mut command);
        command.kill().unwrap();
        command.wait().unwrap();
        assert_eq!(
            line.as_deref(),
            Some("CONNECT lambda.eu-west-1.amazonaws.com:443 HTTP/1.1\r\n"),
            "{variable}"
        );
    }
}

#[test]
fn missing_ca_bundle_is_reported_with_fix() {
    let output = command(&[("AWS_CA_BUNDLE", "/nowhere/corporate.pem")]).output().unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    for words in ["AWS_CA_BUNDLE", "/nowhere/corporate.pem", "No such file", "unset AWS_CA_BUNDLE"]
    {
        assert!(printed.contains(words), "{words}: {printed}");
    }
}
