//! How far a long command is, on stderr: a bar on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

/// Pause between two looks, on a terminal and elsewhere.
const DRAW_PAUSE: Duration = Duration::from_millis(250);
const LINE_PAUSE: Duration = Duration::from_secs(10);

/// Characters of the bar.
const BAR_WIDTH: usize = 24;

/// Draws until it is ended.
pub(crate) struct Progress {
    task: tokio::task::JoinHandle<()>,
    on_terminal: bool,
}

impl Progress {
    /// `state` says how much is done, from 0 to 1, and what to write about it.
    pub(crate) fn begin(state: impl Fn(Duration) -> (f64, String) + Send + 'static) -> Self {
        let on_terminal = stderr().is_terminal();
        let started = Instant::now();
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(if on_terminal { DRAW_PAUSE } else { LINE_PAUSE }).await;
                let (done, text) = state(started.elapsed());
                let mut out = stderr().lock();
                let text = if on_terminal { format!("{} {text}\x1b[K\r", bar(done)) } else { format!("{text}\n") };
                // Nobody may be there to see it.
                let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            }
        });
        Self { task, on_terminal }
    }

    pub(crate) async fn end(self) {
        self.task.abort();
        // It was aborted.
        let _ = self.task.await;
        if self.on_terminal {
            let _ = write!(stderr(), "\x1b[K");
        }
    }
}

pub(crate) fn bar(done: f64) -> String {
    let full = (0..BAR_WIDTH).filter(|at| (*at as f64) < done * BAR_WIDTH as f64).count();
    format!("[{}{}]", "#".repeat(full), "-".repeat(BAR_WIDTH - full))
}

/// The time that is left if it goes on like this.
pub(crate) fn left(done: f64, took: Duration) -> String {
    if done <= 0.01 {
        return "- left".to_owned();
    }
    let secs = took.mul_f64((1.0 - done).max(0.0) / done).as_secs();
    format!("{}:{:02} left", secs / 60, secs % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills_and_the_time_runs_out() {
        assert_eq!(bar(0.5), "[############------------]");
        assert_eq!(left(0.0, Duration::from_secs(1)), "- left");
        assert_eq!(left(0.5, Duration::from_secs(70)), "1:10 left");
        assert_eq!(left(1.0, Duration::from_secs(70)), "0:00 left");
    }
}
