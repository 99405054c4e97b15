//! What the operating system says of this process: when it started, how much it holds. Where there is no `/proc`, nothing.

use std::fs;

use metrics::gauge;

use super::metrics as names;

/// Sets the gauges.
pub(super) fn measure() {
    for (name, value) in [(names::START_TIME, started()), (names::RESIDENT_MEMORY, resident()), (names::OPEN_FDS, open_fds())] {
        if let Some(value) = value {
            gauge!(name).set(value);
        }
    }
}

/// Linux counts times of processes in hundredths of a second, on every architecture it runs on (proc(5), `sysconf(_SC_CLK_TCK)`).
const TICKS_PER_S: f64 = 100.0;

/// When this process started: so many ticks after the machine did.
fn started() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program stands in parentheses and may hold anything.
    let after = stat.rsplit_once(')')?.1;
    let ticks: f64 = after.split_whitespace().nth(19)?.parse().ok()?;
    let machine = fs::read_to_string("/proc/stat").ok()?;
    let booted: f64 = machine.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(booted + ticks / TICKS_PER_S)
}

fn resident() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}

#[expect(clippy::cast_precision_loss, reason = "a process has fewer than 2^53 of them")]
fn open_fds() -> Option<f64> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count() as f64)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_started_lately_and_holds_something() {
        let started = started().unwrap();
        let machine = fs::read_to_string("/proc/uptime").unwrap();
        assert!(started > 1.0e9 && machine.split(' ').next().unwrap().parse::<f64>().unwrap() > 0.0);
        assert!(resident().unwrap() > 1.0e6);
        assert!(open_fds().unwrap() >= 3.0);
    }
}
