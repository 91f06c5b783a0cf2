//! What every journey needs: a service of its own on a free port, its folder, its clients, conditions to wait on.

use keytrail_kms::auth::credentials::{Credentials, SecretKey};
use keytrail_kms::client::{Client, ClientError};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(crate) const ACCOUNT: &str = "123456789012";
pub(crate) const OTHER_ACCOUNT: &str = "210987654321";
pub(crate) const REGION: &str = "us-east-1";

/// Longest that any condition is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// The demo's users, with `SECRET-<name>` where a secret goes.
pub(crate) const PEOPLE: &str = include_str!("../../src/commands/demo/people.toml");

fn secret_of(name: &str) -> String {
    format!("journey-secret-of-{name}-0123456789abcdef")
}

/// The command under test.
pub(crate) fn keytrail() -> Command {
    Command::new(env!("CARGO_BIN_EXE_keytrail"))
}

/// A running command that is killed when the test ends.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) ready: String,
}

impl Running {
    /// Starts `command` and waits for its ready line.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("start the command");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The test may have ended; then nobody wants the line.
                let _ = sender.send(line);
            }
        });
        let ready = loop {
            match receiver.recv_timeout(PATIENCE) {
                Ok(line) if line.starts_with("ready ") => break line,
                Ok(_) => {}
                Err(error) => {
                    let _ = child.kill();
                    panic!("no ready line: {error}");
                }
            }
        };
        Self { child, ready }
    }

    pub(crate) fn field(&self, name: &str) -> String {
        let found = self.ready.split_whitespace().find_map(|word| word.strip_prefix(&format!("{name}=")));
        found.unwrap_or_else(|| panic!("no {name}= in {}", self.ready)).to_owned()
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// SIGTERM, then waits; panics unless it stops cleanly.
    pub(crate) fn stop(mut self) {
        self.signal("TERM");
        let status = wait_for("the command to stop", || self.child.try_wait().expect("wait"));
        assert!(status.success(), "stopped with {status}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Stopped already, or not: either way nothing of the test may stay.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal by name with the ordinary `kill`.
pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().expect("run kill");
    assert!(status.success(), "kill -{name} {pid}");
}

/// The pid of the direct child that is this part.
pub(crate) fn child_pid(parent: u32, part: &str) -> u32 {
    child(parent, part).unwrap_or_else(|| panic!("no {part}"))
}

/// The same of a part that may be down.
pub(crate) fn child(parent: u32, part: &str) -> Option<u32> {
    let out = Command::new("ps").args(["-o", "pid=,args=", "--ppid", &parent.to_string()]).output().expect("run ps");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let line = text.lines().find(|line| line.contains(&format!(" {part} ")))?;
    Some(line.split_whitespace().next().expect("a pid").parse().expect("a number"))
}

/// Polls until `probe` gives something.
pub(crate) fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < end, "gave up waiting for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A data folder with the people of the journeys in it.
pub(crate) struct Folder {
    temp: TempDir,
}

impl Folder {
    /// Initialised with `keytrail init`, plus an application, an insider and someone of another account.
    pub(crate) fn with_people() -> Self {
        let folder = Self::empty();
        let out = keytrail().args(["init", "--data"]).arg(folder.path()).args(["--account", ACCOUNT]).output();
        let out = out.expect("run init");
        assert!(out.status.success(), "init: {}", String::from_utf8_lossy(&out.stderr));
        let file = folder.path().join("identities.toml");
        let mut people = PEOPLE.to_owned();
        for name in ["app", "insider", "outsider"] {
            people = people.replace(&format!("SECRET-{name}"), &secret_of(name));
        }
        let text = std::fs::read_to_string(&file).expect("read identities") + &people;
        std::fs::write(&file, text).expect("write identities");
        folder
    }

    pub(crate) fn empty() -> Self {
        Self { temp: tempfile::tempdir().expect("make a folder") }
    }

    pub(crate) fn path(&self) -> &Path {
        self.temp.path()
    }

    /// All of it as it is now, elsewhere.
    pub(crate) fn copy(&self) -> Self {
        let copy = Self::empty();
        let status = Command::new("cp").arg("-a").arg(self.path().join(".")).arg(copy.path()).status();
        assert!(status.expect("run cp").success(), "copy the folder");
        copy
    }

    /// `keytrail up` on a free port, with more arguments.
    pub(crate) fn up(&self, more: &[&str]) -> Running {
        let mut command = keytrail();
        command.args(["up", "--listen", "127.0.0.1:0", "--account", ACCOUNT, "--data"]).arg(self.path()).args(more);
        Running::start(&mut command)
    }

    /// Credentials of the administrator.
    pub(crate) fn administrator(&self) -> Credentials {
        self.profile("credentials", "default")
    }

    pub(crate) fn profile(&self, file: &str, profile: &str) -> Credentials {
        Credentials::read(&self.path().join(file), profile).expect("read credentials")
    }

    /// Runs `keytrail sql` and reads its lines.
    pub(crate) fn sql(&self, query: &str) -> Vec<Value> {
        let out = self.sql_output(query);
        assert!(out.status.success(), "sql {query}: {}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).expect("UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }

    pub(crate) fn sql_output(&self, query: &str) -> Output {
        let mut command = keytrail();
        command.args(["sql", "--format", "jsonl", "--data"]).arg(self.path()).arg(query);
        // What is odd about a folder is said as a warning, and looked for.
        command.env("KEYTRAIL_LOG", "warn");
        command.output().expect("run sql")
    }

    /// `keytrail verify`: its exit code says VERIFIED.
    pub(crate) fn verify(&self) -> Output {
        keytrail().arg("verify").arg(self.path()).output().expect("run verify")
    }

    /// Each decision in the log comes out again from what the log says of its time.
    pub(crate) fn assert_reproduced(&self) {
        let out = keytrail().args(["policy", "replay", "--data"]).arg(self.path()).output().expect("run replay");
        assert_eq!(out.status.code(), Some(0), "{}{}", text(&out.stdout), text(&out.stderr));
        assert!(text(&out.stdout).contains("0 cannot be told"), "{}", text(&out.stdout));
    }

    pub(crate) fn assert_verified(&self) {
        let out = self.verify();
        assert!(out.status.success(), "verify: {}{}", text(&out.stdout), text(&out.stderr));
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A person of people.toml, or anyone with credentials, at one service.
pub(crate) struct Caller {
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Caller {
    pub(crate) fn new(endpoint: &str, credentials: Credentials) -> Self {
        Self::in_region(endpoint, credentials, REGION)
    }

    pub(crate) fn in_region(endpoint: &str, credentials: Credentials, region: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { client: Client::new(endpoint, credentials, region).expect("a client"), runtime }
    }

    pub(crate) fn with_secret(endpoint: &str, id: &str, secret: &str) -> Self {
        let secret = SecretKey::new(secret.to_owned()).expect("a secret");
        Self::new(endpoint, Credentials::new(id, secret).expect("credentials"))
    }

    /// Someone of people.toml.
    pub(crate) fn person(endpoint: &str, name: &str) -> Self {
        Self::with_secret(endpoint, &format!("AKIADEMO{:0>8}", name.to_uppercase()), &secret_of(name))
    }

    /// The body of the answer, or the exception's name.
    pub(crate) fn call(&self, operation: &str, body: Value) -> Result<Value, String> {
        let target = if operation.contains('.') { operation.to_owned() } else { format!("TrentService.{operation}") };
        match self.runtime.block_on(self.client.call(&target, body, None)) {
            Ok(answer) => Ok(answer.body),
            Err(error) => Err(error.code().map_or_else(|| format!("{error:?}"), str::to_owned)),
        }
    }

    /// Request id of any answer of the service, success or exception; nothing when the service is gone.
    pub(crate) fn request_id(&self, operation: &str, body: Value) -> Option<String> {
        let target = if operation.contains('.') { operation.to_owned() } else { format!("TrentService.{operation}") };
        match self.runtime.block_on(self.client.call(&target, body, None)) {
            Ok(answer) => Some(answer.request_id),
            Err(ClientError::Service { request_id, .. }) => Some(request_id),
            Err(_) => None,
        }
    }

    /// Request id and body of an answer that must have a record: not where the service says that it could not do its
    /// work, nor where it is gone.
    pub(crate) fn recorded(&self, operation: &str, body: Value) -> Option<(String, Value)> {
        let target = format!("TrentService.{operation}");
        match self.runtime.block_on(self.client.call(&target, body, None)) {
            Ok(answer) => Some((answer.request_id, answer.body)),
            Err(ClientError::Service { request_id, code, .. }) if code != "KMSInternalException" => {
                Some((request_id, Value::Null))
            }
            Err(_) => None,
        }
    }

    pub(crate) fn create_key(&self, tags: Value) -> String {
        let answer = self.call("CreateKey", json!({ "Tags": tags })).expect("create a key");
        answer["KeyMetadata"]["Arn"].as_str().expect("an ARN").to_owned()
    }

    pub(crate) fn encrypt(&self, key: &str, context: &Value) -> String {
        let body = json!({ "KeyId": key, "Plaintext": "aGVsbG8=", "EncryptionContext": context });
        self.call("Encrypt", body).expect("encrypt")["CiphertextBlob"].as_str().expect("a blob").to_owned()
    }

    pub(crate) fn decrypt(&self, blob: &str, context: &Value) -> Result<Value, String> {
        self.call("Decrypt", json!({ "CiphertextBlob": blob, "EncryptionContext": context }))
    }

    pub(crate) fn key_state(&self, key: &str) -> String {
        let answer = self.call("DescribeKey", json!({ "KeyId": key })).expect("describe");
        answer["KeyMetadata"]["KeyState"].as_str().expect("a state").to_owned()
    }

    pub(crate) fn policy(&self, key: &str) -> String {
        let answer = self.call("GetKeyPolicy", json!({ "KeyId": key })).expect("get the policy");
        answer["Policy"].as_str().expect("a policy").to_owned()
    }
}

/// Postfix's `smtp-sink`, which drops each message as a file.
pub(crate) struct MailSink {
    child: Child,
    folder: TempDir,
    pub(crate) address: String,
}

impl MailSink {
    pub(crate) fn start() -> Self {
        Self::start_at(&free_address())
    }

    pub(crate) fn start_at(address: &str) -> Self {
        let folder = tempfile::tempdir().expect("make a folder");
        let mut command = Command::new("smtp-sink");
        if running_as_root() {
            // smtp-sink refuses to run as root; its folder must then be open to the other user.
            use std::os::unix::fs::PermissionsExt;
            let open = std::fs::Permissions::from_mode(0o777);
            std::fs::set_permissions(folder.path(), open).expect("open the folder");
            command.args(["-u", "nobody"]);
        }
        // The dump name is a template for strftime plus a random part.
        let child = command
            .args(["-d", "mail-%H%M%S."])
            .args([address, "100"])
            .current_dir(folder.path())
            .spawn()
            .expect("start smtp-sink: run `make test`, which installs it");
        wait_for("smtp-sink", || std::net::TcpStream::connect(address).ok());
        Self { child, folder, address: address.to_owned() }
    }

    /// Every message so far, raw.
    pub(crate) fn messages(&self) -> Vec<String> {
        let mut files: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(self.folder.path()).expect("read the folder") {
            files.push(entry.expect("an entry").path());
        }
        files.sort();
        let read = |file: &PathBuf| std::fs::read_to_string(file).unwrap_or_default();
        files.iter().map(read).filter(|message| message.contains("\nFrom: ")).collect()
    }
}

impl Drop for MailSink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn running_as_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A loopback address with a port that was free a moment ago.
pub(crate) fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("an address").to_string()
}
