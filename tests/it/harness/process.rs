//! The real binary as a child process: started, signalled, killed, and started again over the same database.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use super::api::Api;
use super::database::Database;
use super::server::ADMIN_TOKEN;
use super::until;

/// A process is started again over what another one wrote, so all have one key.
pub(crate) const SEALING_KEY: &str = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA";

/// What a command on a database is told.
pub(crate) const KEY: [(&str, &str); 1] = [("LOGOUTD_SEALING_KEY", SEALING_KEY)];

/// What every process here is told: leases so short that what a killed one held is soon due again.
const SETTINGS: [(&str, &str); 9] = [
    ("LOGOUTD_ADMIN_TOKEN", ADMIN_TOKEN),
    ("LOGOUTD_SEALING_KEY", SEALING_KEY),
    ("LOGOUTD_DATABASE__MAX_CONNECTIONS", "4"),
    ("LOGOUTD_DELIVERY__TIMEOUT_MS", "800"),
    ("LOGOUTD_DELIVERY__TIMEOUT_MAX_MS", "800"),
    ("LOGOUTD_DELIVERY__LEASE_MARGIN_MS", "100"),
    ("LOGOUTD_DELIVERY__LEASE_MS", "1000"),
    ("LOGOUTD_DELIVERY__POLL_MS", "50"),
    ("LOGOUTD_SCHEDULE__HOLD_MS", "500"),
];

/// A logoutd that is killed with this value.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `logoutd` with these arguments and variables, and with nothing of this process's environment.
    pub(crate) fn spawn(database: &Database, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::spawn_under(database, &[], arguments, variables)
    }

    /// The same under another program, which becomes `logoutd` in the end.
    pub(crate) fn spawn_under(database: &Database, under: &[&str], arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let log = database.directory().join(format!("log-{}", STARTED.fetch_add(1, Ordering::Relaxed)));
        let words = [under, &[env!("CARGO_BIN_EXE_logoutd")], arguments].concat();
        let child = Command::new(words[0])
            .args(&words[1..])
            .env_clear()
            .envs(variables.iter().copied())
            .current_dir(database.directory())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, log }
    }

    /// Serves in dev mode on an ephemeral port, with the settings of all and then these.
    pub(crate) fn serve(database: &Database, variables: &[(&str, &str)]) -> Self {
        Self::serve_under(database, &[], variables)
    }

    /// The same under another program.
    pub(crate) fn serve_under(database: &Database, under: &[&str], variables: &[(&str, &str)]) -> Self {
        let arguments = ["serve", "--dev", "--listen", "127.0.0.1:0", "--database-url", database.url.as_str()];
        Self::spawn_under(database, under, &arguments, &[&SETTINGS, variables].concat())
    }

    /// The address it serves on, once it does.
    pub(crate) async fn base(&mut self) -> String {
        until("the process serves", || async {
            let line = self.lines().into_iter().find(|line| line["message"] == "the server has started");
            line.map(|line| format!("http://{}", line["listen"].as_str().unwrap()))
        })
        .await
    }

    /// A caller with the bootstrap token, once it serves.
    pub(crate) async fn admin(&mut self) -> Api {
        Api::new(&self.base().await).with_token(ADMIN_TOKEN)
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it wrote to its standard error.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Its log lines that are JSON.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// SIGKILL: it does nothing more, not even the next instruction.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop, as an orchestrator does.
    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends it a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// How it ended, once it has.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let mut look = || child.try_wait().unwrap();
        until("the process ends", || std::future::ready(look())).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs a command of the real binary to its end, with nothing of this process's environment.
pub(crate) fn logoutd(database: &Database, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_logoutd"));
    command.args(arguments).env_clear().current_dir(database.directory()).envs(variables.iter().copied()).output().unwrap()
}

/// What it printed, after it did what it was asked.
#[track_caller]
pub(crate) fn done(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Why it did not.
#[track_caller]
pub(crate) fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}
