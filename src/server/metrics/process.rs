//! The process under the names that every exporter uses, and tokio's runtime. prometheus has a collector for the first, but it lists every
//! open file at each scrape, which takes long where ten thousand connections are open, and brings a second version of rustix.

use std::time::Duration;

use prometheus::{Counter, Error, Gauge, IntGauge, IntGaugeVec, Opts, Registry};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use time::OffsetDateTime;

use super::{register, whole};

#[derive(Debug)]
pub(super) struct Process {
    open_fds: IntGauge,
    max_fds: IntGauge,
    resident: IntGauge,
    cpu: Counter,
    started: Gauge,
    workers: IntGauge,
    tasks: IntGauge,
    queue: IntGauge,
    busy: Counter,
}

impl Process {
    pub(super) fn new(registry: &Registry) -> Result<Self, Error> {
        let gauge = |name: &str, help: &str| register(registry, IntGauge::new(name, help)?);
        let counter = |name: &str, help: &str| register(registry, Counter::new(name, help)?);
        let build = Opts::new("meshmint_build_info", "1, with the version that runs.");
        register(registry, IntGaugeVec::new(build, &["version"])?)?.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            open_fds: gauge("process_open_fds", "Files and sockets that are open.")?,
            max_fds: gauge("process_max_fds", "How many may be open: the soft limit.")?,
            resident: gauge("process_resident_memory_bytes", "Resident memory.")?,
            cpu: counter("process_cpu_seconds_total", "User and system CPU time.")?,
            started: register(registry, Gauge::new("process_start_time_seconds", "When the process started, Unix seconds.")?)?,
            workers: gauge("meshmint_runtime_workers", "Threads of the asynchronous runtime.")?,
            tasks: gauge("meshmint_runtime_tasks", "Tasks that are alive: connections, requests, loops.")?,
            queue: gauge("meshmint_runtime_queue", "Tasks that wait in the runtime's common queue; a queue that stays says that the CPU is short.")?,
            busy: counter("meshmint_runtime_busy_seconds_total", "Time that the runtime's threads were busy, all together.")?,
        })
    }

    pub(super) fn started(&self, at: OffsetDateTime) {
        self.started.set(Duration::try_from(at - OffsetDateTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64());
    }

    /// What can't be read (another system than Linux) stays as it was.
    pub(super) fn refresh(&self) {
        if let Some(open) = open_files() {
            self.open_fds.set(whole(open));
        }
        self.max_fds.set(getrlimit(Resource::Nofile).current.map_or(i64::MAX, whole));
        if let Some(bytes) = resident_bytes() {
            self.resident.set(whole(bytes));
        }
        let spent = clock_gettime(ClockId::ProcessCPUTime);
        catch_up(&self.cpu, Duration::new(spent.tv_sec.unsigned_abs(), spent.tv_nsec.try_into().unwrap_or_default()));

        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let runtime = runtime.metrics();
        self.workers.set(whole(runtime.num_workers()));
        self.tasks.set(whole(runtime.num_alive_tasks()));
        self.queue.set(whole(runtime.global_queue_depth()));
        catch_up(&self.busy, (0..runtime.num_workers()).map(|worker| runtime.worker_total_busy_duration(worker)).sum());
    }
}

/// Linux gives the number of open files as the size of their folder, since 6.2; before that each is counted.
fn open_files() -> Option<u64> {
    const FOLDER: &str = "/proc/self/fd";
    match std::fs::metadata(FOLDER).ok()?.len() {
        // The one that lists them is open too, for that moment.
        0 => Some((std::fs::read_dir(FOLDER).ok()?.count() as u64).saturating_sub(1)),
        open => Some(open),
    }
}

fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

fn catch_up(counter: &Counter, now: Duration) {
    counter.inc_by((now.as_secs_f64() - counter.get()).max(0.0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_tells_what_the_process_holds() {
        let before = open_files().unwrap();
        let files: Vec<_> = (0..100).map(|_| std::fs::File::open("/proc/self/statm").unwrap()).collect();
        let with_more = open_files().unwrap();
        // Other tests of this process open and close files meanwhile.
        assert!(with_more > before + 50, "{before} and 100 more are {with_more}");
        drop(files);
        assert!((1 << 20..1 << 40).contains(&resident_bytes().unwrap()));
    }

    #[test]
    fn time_on_the_cpu_only_grows() {
        let process = Process::new(&Registry::new()).unwrap();
        process.refresh();
        let first = process.cpu.get();
        assert!(first > 0.0);
        while process.cpu.get() == first {
            process.refresh();
        }
        assert!(process.cpu.get() > first);
    }
}
