//! The lines of the log on their way out, by a thread of its own: whoever logs never waits and never fails. A line that can't be written (a full
//! disk, a pipe whose reader went away), and one that finds no room because nobody reads, is lost and counted. Lines leave in the order in which
//! they came, and go on once they can be written again.

use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many bytes may wait: some three thousand lines, which is half a minute of the most that refusals write.
const ROOM: usize = 1 << 20;
/// So many bytes a pipe takes wholly or not at all (PIPE_BUF in pipe(7)): lines of several processes on one pipe don't mix.
const TOGETHER: usize = 4096;

/// Where lines are put. Clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct LogLines(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Something waits for the thread.
    filled: Condvar,
    /// Nothing waits, and nothing is being written.
    emptied: Condvar,
    lost: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct State {
    waiting: Lines,
    /// Whether the thread has something at hand.
    writing: bool,
}

/// Lines, and where each of them ends.
#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogLines {
    /// Starts the thread, which lives as long as the process. `recovered` is told how many lines were lost in all whenever one is written again
    /// after that: it may log it.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(super) fn start(out: impl Write + Send + 'static, recovered: impl Fn(u64) + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let ours = Arc::clone(&shared);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write_all(&ours, out, recovered))?;
        Ok(Self(shared))
    }

    /// How many lines were lost so far.
    pub(super) fn lost(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.0.lost)
    }

    /// Waits until everything is written, for `patience` at most.
    pub(super) fn finish(&self, patience: Duration) {
        let state = self.0.lock();
        let busy = |state: &mut State| state.writing || !state.waiting.ends.is_empty();
        // What isn't written by then is lost with the process.
        drop(self.0.emptied.wait_timeout_while(state, patience, busy));
    }
}

/// Each call takes one line, whole or not at all.
impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        if state.waiting.bytes.len() + line.len() > ROOM {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
            return Ok(line.len());
        }
        let wake = state.waiting.ends.is_empty() && !state.writing;
        state.waiting.bytes.extend_from_slice(line);
        let end = state.waiting.bytes.len();
        state.waiting.ends.push(end);
        drop(state);
        if wake {
            self.0.filled.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(shared: &Shared, out: impl Write, recovered: impl Fn(u64)) {
    let mut out = Out { out, torn: false };
    let (mut lines, mut told) = (Lines::default(), 0);
    loop {
        let mut state = shared.lock();
        state.writing = false;
        if state.waiting.ends.is_empty() {
            shared.emptied.notify_all();
        }
        state = shared.filled.wait_while(state, |state| state.waiting.ends.is_empty()).unwrap_or_else(PoisonError::into_inner);
        state.writing = true;
        std::mem::swap(&mut state.waiting, &mut lines);
        drop(state);

        let lost = out.put_all(&lines);
        lines.bytes.clear();
        lines.ends.clear();
        let lost_so_far = shared.lost.fetch_add(lost, Ordering::Relaxed) + lost;
        if lost == 0 && lost_so_far > told {
            told = lost_so_far;
            recovered(lost_so_far);
        }
    }
}

struct Out<W> {
    out: W,
    /// A line was written in part: the next one must not go on in it.
    torn: bool,
}

impl<W: Write> Out<W> {
    /// Writes each line, several at once; returns how many could not be written.
    fn put_all(&mut self, lines: &Lines) -> u64 {
        let (mut begin, mut lost, mut ends) = (0, 0, lines.ends.as_slice());
        while !ends.is_empty() {
            let several = ends.iter().take_while(|end| **end - begin <= TOGETHER).count().max(1);
            let end = ends.get(several - 1).copied().unwrap_or(begin);
            let out = begin + self.put(lines.bytes.get(begin..end).unwrap_or_default());
            let whole = ends.iter().take_while(|end| **end <= out).count();
            if whole > 0 {
                begin = ends.get(whole - 1).copied().unwrap_or(end);
            }
            // The first that isn't out wholly is lost; those behind it have a try of their own.
            let torn = ends.get(whole).filter(|_| whole < several);
            if let Some(next) = torn {
                self.torn |= out > begin;
                begin = *next;
                lost += 1;
            }
            ends = ends.get(whole + usize::from(torn.is_some())..).unwrap_or_default();
        }
        lost
    }

    /// Returns how many bytes are out.
    fn put(&mut self, bytes: &[u8]) -> usize {
        if self.torn {
            if self.out.write_all(b"\n").is_err() {
                return 0;
            }
            self.torn = false;
        }
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            match self.out.write(rest) {
                Ok(0) => break,
                Ok(more) => written += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Lets so many bytes in, then fails, until somebody gives it more.
    #[derive(Debug, Clone, Default)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Disk {
        fn free(&self, bytes: usize) {
            self.0.lock().unwrap().1 = bytes;
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().0.clone()).unwrap()
        }
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (text, free) = &mut *self.0.lock().unwrap();
            let taken = bytes.len().min(*free);
            if taken == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            text.extend_from_slice(&bytes[..taken]);
            *free -= taken;
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(texts: &[&str]) -> Lines {
        let mut lines = Lines::default();
        for text in texts {
            lines.bytes.extend_from_slice(text.as_bytes());
            lines.ends.push(lines.bytes.len());
        }
        lines
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn lines_come_out_whole_and_in_order_whatever_is_lost() {
        let three = lines(&["one\n", "two\n", "three\n"]);
        for free in 0..=15 {
            let disk = Disk::default();
            let mut out = Out { out: disk.clone(), torn: false };
            disk.free(free);
            let lost = out.put_all(&three);
            let whole = disk.text().matches('\n').count();
            assert_eq!((lost, disk.text().len()), (3 - whole as u64, free.min(14)));
            disk.free(100);
            assert_eq!(out.put_all(&lines(&["four\n"])), 0);
            assert!(disk.text().ends_with("\nfour\n") || disk.text() == "four\n", "{free}: {:?}", disk.text());
        }
    }

    #[test]
    fn a_line_that_was_torn_is_lost_and_those_behind_it_are_tried() {
        let disk = Disk::default();
        let mut out = Out { out: disk.clone(), torn: false };
        disk.free(6);
        assert_eq!(out.put_all(&lines(&["one\n", "two\n", "three\n"])), 2);
        assert_eq!(disk.text(), "one\ntw");
        disk.free(100);
        assert_eq!(out.put_all(&lines(&["four\n", "five\n"])), 0);
        assert_eq!(disk.text(), "one\ntw\nfour\nfive\n");
    }

    #[test]
    fn a_long_line_goes_alone_and_short_ones_together() {
        #[derive(Default)]
        struct Sizes(Vec<usize>);
        impl Write for Sizes {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.push(bytes.len());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut out = Out { out: Sizes::default(), torn: false };
        let (long, short) = ("x".repeat(10_000), "y".repeat(1500));
        assert_eq!(out.put_all(&lines(&[&short, &short, &short, &long, &short])), 0);
        assert_eq!(out.out.0, [3000, 1500, 10_000, 1500]);
    }

    #[test]
    fn what_is_lost_is_counted_and_told_once_it_can_be_written_again() {
        let (tell, told) = mpsc::channel();
        let disk = Disk::default();
        let mut log = LogLines::start(disk.clone(), move |lost| tell.send(lost).unwrap()).unwrap();
        for line in ["one\n", "two\n"] {
            log.write_all(line.as_bytes()).unwrap();
            log.finish(PATIENCE);
        }
        assert_eq!(log.lost().load(Ordering::Relaxed), 2);
        assert!(told.try_recv().is_err());
        disk.free(100);
        log.write_all(b"three\n").unwrap();
        assert_eq!(told.recv_timeout(PATIENCE), Ok(2));
        log.write_all(b"four\n").unwrap();
        log.finish(PATIENCE);
        assert_eq!(disk.text(), "three\nfour\n");
        assert!(told.try_recv().is_err(), "once is enough");
    }

    #[test]
    fn nobody_waits_where_nobody_reads() {
        /// Stands still until the test lets go.
        struct Stuck(mpsc::Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                _ = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (go_on, stuck) = mpsc::channel();
        let mut log = LogLines::start(Stuck(stuck), |_| {}).unwrap();
        let line = [b'x'; 1024];
        while log.lost().load(Ordering::Relaxed) < 10 {
            log.write_all(&line).unwrap();
        }
        assert!(log.0.lock().waiting.bytes.len() <= ROOM);
        log.finish(Duration::from_millis(1));
        drop(go_on);
        log.finish(PATIENCE);
        assert!(log.0.lock().waiting.ends.is_empty());
    }
}
