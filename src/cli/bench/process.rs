//! What a process uses, from `/proc`: the server's processor time and memory, and our own.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// A process on this machine.
#[derive(Debug, Clone)]
pub(super) struct Process {
    pid: u32,
    folder: PathBuf,
}

/// Processor time that a process has used so far, user and system, in the two forms that Linux offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CpuReading {
    /// utime + stime of proc_pid_stat(5): all threads, those that ended too, but only to the tick.
    whole: Duration,
    /// The sum of `task/*/schedstat`: to the nanosecond, but without threads that ended. `None` where the kernel has none.
    threads: Option<Duration>,
}

/// Where a difference of two readings comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum CpuSource {
    /// `/proc/PID/task/*/schedstat`, nanoseconds.
    Schedstat,
    /// `/proc/PID/stat`, ticks.
    Stat,
}

/// Resident memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Memory {
    /// VmRSS.
    pub(super) resident: u64,
    /// VmHWM: the most since the process began.
    pub(super) peak: u64,
}

/// How far the two forms may be apart before the one without ended threads isn't believed.
const TICKS_APART: u32 = 3;

impl Process {
    /// The process, if it is there and its processor time can be read.
    ///
    /// # Errors
    /// In words.
    pub(super) fn find(pid: u32) -> Result<Self, String> {
        let process = Self { pid, folder: PathBuf::from(format!("/proc/{pid}")) };
        process.cpu().map(|_| process)
    }

    /// Its id.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// The processor time used so far.
    ///
    /// # Errors
    /// In words, where the process has gone.
    pub(super) fn cpu(&self) -> Result<CpuReading, String> {
        let gone = |error: &dyn fmt::Display| format!("process {} can't be read: {error}", self.pid);
        let stat = std::fs::read_to_string(self.folder.join("stat")).map_err(|error| gone(&error))?;
        let ticks = ticks_of_stat(&stat).ok_or_else(|| gone(&"/proc/PID/stat has another form"))?;
        Ok(CpuReading { whole: tick().saturating_mul(ticks), threads: self.threads() })
    }

    fn threads(&self) -> Option<Duration> {
        let mut sum = Duration::ZERO;
        for task in std::fs::read_dir(self.folder.join("task")).ok()? {
            match std::fs::read_to_string(task.ok()?.path().join("schedstat")) {
                Ok(text) => sum += nanoseconds_of_schedstat(&text)?,
                // A thread that ended between the listing and this reading.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && self.folder.join("schedstat").exists() => {}
                Err(_) => return None,
            }
        }
        Some(sum)
    }

    /// Its memory now.
    ///
    /// # Errors
    /// In words, where the process has gone.
    pub(super) fn memory(&self) -> Result<Memory, String> {
        let gone = |error: &dyn fmt::Display| format!("the memory of process {} can't be read: {error}", self.pid);
        let status = std::fs::read_to_string(self.folder.join("status")).map_err(|error| gone(&error))?;
        let bytes = |name| bytes_of_status(&status, name).ok_or_else(|| gone(&format!("no {name}")));
        Ok(Memory { resident: bytes("VmRSS")?, peak: bytes("VmHWM")? })
    }
}

impl CpuReading {
    /// What was used from `self` to `later`.
    pub(super) fn until(self, later: Self) -> (Duration, CpuSource) {
        let whole = later.whole.saturating_sub(self.whole);
        match (self.threads, later.threads) {
            (Some(before), Some(after)) if after.saturating_sub(before) + tick().saturating_mul(TICKS_APART) >= whole => {
                (after.saturating_sub(before), CpuSource::Schedstat)
            }
            _ => (whole, CpuSource::Stat),
        }
    }
}

/// Processor time of this process so far, all threads.
pub(super) fn own_cpu() -> Duration {
    duration(clock_gettime(ClockId::ProcessCPUTime))
}

/// Processor time of the calling thread so far.
pub(super) fn thread_cpu() -> Duration {
    duration(clock_gettime(ClockId::ThreadCPUTime))
}

/// How long this process's main thread has waited for a core so far: with one thread, what others took from us.
pub(super) fn own_wait() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/self/schedstat").ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

fn duration(time: rustix::time::Timespec) -> Duration {
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

fn tick() -> Duration {
    Duration::from_secs(1) / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100).max(1)
}

/// utime + stime, the 14th and 15th field. The name, in parentheses, may hold anything; the fields after it are numbers, from the third on.
fn ticks_of_stat(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_ascii_whitespace().skip(11).map(str::parse::<u32>);
    times.next()?.ok()?.checked_add(times.next()?.ok()?)
}

/// The first number: time on a core.
fn nanoseconds_of_schedstat(text: &str) -> Option<Duration> {
    text.split_ascii_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// `VmRSS:      1234 kB`, in bytes.
fn bytes_of_status(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says_is_read() {
        let stat = "24505 (a ) b) R 24497 24497 13263 0 -1 4194304 102 0 0 0 250 51 7 9 20 0 1 0 115299 2998272 407";
        assert_eq!(ticks_of_stat(stat), Some(301));
        assert_eq!(ticks_of_stat("1 (x) R 1"), None);
        assert_eq!(nanoseconds_of_schedstat("956586 12 1\n"), Some(Duration::from_nanos(956_586)));
        assert_eq!(nanoseconds_of_schedstat(""), None);
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(bytes_of_status(status, "VmRSS"), Some(1 << 20));
        assert_eq!(bytes_of_status(status, "VmHWM"), Some(2 << 20));
        assert_eq!(bytes_of_status(status, "VmSwap"), None);
    }

    #[test]
    fn the_finer_source_counts_unless_threads_ended() {
        let reading = |whole, threads: Option<u64>| CpuReading { whole: tick() * whole, threads: threads.map(Duration::from_nanos) };
        let second = 1_000_000_000;
        let (used, source) = reading(0, Some(5)).until(reading(100, Some(second + 12)));
        assert_eq!((used, source), (Duration::from_nanos(second + 7), CpuSource::Schedstat));
        let (used, source) = reading(0, Some(second)).until(reading(100, Some(second)));
        assert_eq!((used, source), (tick() * 100, CpuSource::Stat));
        assert_eq!(reading(1, None).until(reading(3, Some(9))), (tick() * 2, CpuSource::Stat));
    }

    #[test]
    fn our_own_process_can_be_read() {
        let own = Process::find(std::process::id()).unwrap();
        let memory = own.memory().unwrap();
        assert!(memory.peak >= memory.resident && memory.resident > 100_000, "{memory:?}");
        let before = own.cpu().unwrap();
        let mut sum = 0_u64;
        while own_cpu().is_zero() {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(thread_cpu() <= own_cpu());
        assert!(before.until(own.cpu().unwrap()).0 < Duration::from_secs(3600));
        assert!(Process::find(u32::MAX).unwrap_err().contains("can't be read"));
    }
}
