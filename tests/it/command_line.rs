//! The binary as a shell sees it: exit status, standard output, standard error.

use std::process::{Command, Output};

fn logoutd(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_logoutd")).args(arguments).env_clear().envs(variables.iter().copied()).output().unwrap()
}

fn text(octets: &[u8]) -> &str {
    str::from_utf8(octets).unwrap()
}

#[test]
fn a_sound_configuration_is_ok_and_shown_without_its_secrets() {
    let secret = "an-admin-token-that-nobody-guesses";
    let output = logoutd(&["check-config", "--listen", "127.0.0.1:1"], &[("LOGOUTD_ADMIN_TOKEN", secret)]);
    assert_eq!(output.status.code(), Some(0));
    let shown = text(&output.stdout);
    assert!(shown.starts_with("ok\n"), "{shown}");
    assert!(shown.contains("\n  http.listen = 127.0.0.1:1 (--listen)\n"), "{shown}");
    assert!(shown.contains("\n  admin_token = (hidden) (LOGOUTD_ADMIN_TOKEN)\n") && !shown.contains(secret), "{shown}");
}

#[test]
fn every_mistake_is_told_at_once_and_nothing_is_served() {
    for command in ["check-config", "serve", "migrate"] {
        let output = logoutd(&[command], &[("LOGOUTD_LISTEN", "here"), ("LOGOUTD_SPEED", "fast")]);
        assert_eq!(output.status.code(), Some(1), "{command}");
        let told = text(&output.stderr);
        assert!(
            told.contains("2 mistakes") && told.contains("http.listen (LOGOUTD_LISTEN)") && told.contains("speed (LOGOUTD_SPEED)"),
            "{told}"
        );
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn misuse_has_status_2_and_help_has_status_0() {
    assert_eq!(logoutd(&["fly"], &[]).status.code(), Some(2));
    assert_eq!(logoutd(&["token", "create", "--role", "auditor"], &[]).status.code(), Some(2));
    assert_eq!(logoutd(&["--help"], &[]).status.code(), Some(0));
}

#[test]
fn a_server_that_cannot_be_asked_is_a_failure() {
    let variables = [("LOGOUTD_URL", "http://127.0.0.1:1"), ("LOGOUTD_TOKEN", "ldt_x")];
    let output = logoutd(&["token", "create", "--role", "auditor"], &variables);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("http://127.0.0.1:1 could not be asked"), "{}", text(&output.stderr));
}
