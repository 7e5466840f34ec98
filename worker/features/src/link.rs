//! One connection that many requests share, and that comes back by itself.
//!
//! A task of its own connects; requests only ever use a connection that is there. So no request
//! waits for a store that is down, and the store is tried at growing intervals instead of once a request. The
//! client library's own manager lets requests wait for its attempts, and keeps a connection that never
//! answers.
//!
//! A connection is lost when it breaks, or when [`SLOW`] requests in a row had no answer in time. A new one
//! is used once it has answered a PING within the requests' timeout.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use redis::aio::{ConnectionLike as _, MultiplexedConnection};
use redis::{Pipeline, RedisError, Value};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::error::Reason;
use crate::store::Store;

/// Requests in a row without an answer in time, after which a connection is lost.
const SLOW: u32 = 3;
/// Longest that an attempt to connect takes, at least.
const CONNECT: Duration = Duration::from_secs(1);
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// A connection to a store, or the wish for one.
pub(crate) struct Link {
    timeout: Duration,
    /// The newest connection.
    newest: watch::Receiver<Option<Connection>>,
    /// Number of the newest connection that is lost.
    lost: watch::Sender<u64>,
    slow: AtomicU32,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Connection {
    /// From 1.
    number: u64,
    redis: MultiplexedConnection,
}

impl Link {
    /// Begins to connect. Needs tokio.
    pub(crate) fn new(store: Arc<Store>, timeout: Duration) -> Self {
        let (publish, newest) = watch::channel(None);
        let (lost, news) = watch::channel(0);
        let task = tokio::spawn(keep_connected(store, timeout, publish, news));
        Self { timeout, newest, lost, slow: AtomicU32::new(0), task }
    }

    /// Waits for a connection. False where there was none within that time.
    pub(crate) async fn connected(&self, within: Duration) -> bool {
        timeout(within, self.next()).await.is_ok_and(|connection| connection.is_some())
    }

    /// Sends commands in one piece and awaits their answers, an error of the server among them. Takes no longer than
    /// the timeout.
    pub(crate) async fn ask(&self, commands: &Pipeline) -> Result<Vec<Value>, Reason> {
        let deadline = Instant::now() + self.timeout;
        let connection = self.open().ok_or(Reason::Down)?;
        match self.ask_by(deadline, &connection, commands).await {
            // A server that was started anew is often there again at once.
            Err(Reason::Down) => {
                let next = timeout_at(deadline, self.next()).await.ok().flatten();
                self.ask_by(deadline, &next.ok_or(Reason::Down)?, commands).await
            }
            answered => answered,
        }
    }

    async fn ask_by(
        &self,
        deadline: Instant,
        connection: &Connection,
        commands: &Pipeline,
    ) -> Result<Vec<Value>, Reason> {
        let mut redis = connection.redis.clone();
        let asked = redis.req_packed_commands(commands, 0, commands.len());
        match timeout_at(deadline, asked).await {
            Ok(Ok(answers)) => {
                self.slow.store(0, Ordering::Relaxed);
                Ok(answers)
            }
            Ok(Err(error)) if is_broken(&error) => {
                self.lose(connection.number);
                Err(Reason::Down)
            }
            Ok(Err(error)) if !error.is_timeout() => Err(Reason::Refused),
            Ok(Err(_)) | Err(_) => {
                if self.slow.fetch_add(1, Ordering::Relaxed) + 1 >= SLOW {
                    self.lose(connection.number);
                }
                Err(Reason::Timeout)
            }
        }
    }

    /// The connection, where there is one that is not lost.
    fn open(&self) -> Option<Connection> {
        let lost = *self.lost.borrow();
        self.newest.borrow().clone().filter(|connection| connection.number > lost)
    }

    /// The next connection that is not lost.
    async fn next(&self) -> Option<Connection> {
        let lost = *self.lost.borrow();
        let good = |newest: &Option<Connection>| {
            newest.as_ref().is_some_and(|connection| connection.number > lost)
        };
        let mut newest = self.newest.clone();
        newest.wait_for(good).await.ok().and_then(|newest| newest.clone())
    }

    fn lose(&self, number: u64) {
        self.slow.store(0, Ordering::Relaxed);
        self.lost.send_if_modified(|lost| {
            let newer = number > *lost;
            *lost = number.max(*lost);
            newer
        });
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn is_broken(error: &RedisError) -> bool {
    !error.is_timeout()
        && (error.is_unrecoverable_error() || error.is_io_error() || error.is_connection_dropped())
}

/// Connects, and again whenever the connection is lost. Ends with its link.
async fn keep_connected(
    store: Arc<Store>,
    timeout: Duration,
    publish: watch::Sender<Option<Connection>>,
    mut lost: watch::Receiver<u64>,
) {
    for number in 1.. {
        let redis = connect(&store, timeout).await;
        tracing::info!(address = store.address(), "the feature store is connected");
        publish.send_replace(Some(Connection { number, redis }));
        if lost.wait_for(|lost| *lost >= number).await.is_err() {
            return;
        }
        // What still waits for answers of this connection is done with it.
        publish.send_replace(None);
        tracing::warn!(address = store.address(), "the connection to the feature store is lost");
    }
}

/// Tries until there is a connection that answers.
async fn connect(store: &Store, timeout: Duration) -> MultiplexedConnection {
    let mut delay = FIRST_DELAY;
    let mut told = String::new();
    loop {
        match attempt(store, timeout).await {
            Ok(connection) => return connection,
            Err(error) => {
                let why = store.why(&error);
                if why != told {
                    tracing::warn!(
                        address = store.address(),
                        why,
                        "no connection to the feature store"
                    );
                    told = why;
                }
            }
        }
        sleep(jittered(delay)).await;
        delay = (delay * 2).min(LONGEST_DELAY);
    }
}

async fn attempt(store: &Store, timeout: Duration) -> Result<MultiplexedConnection, RedisError> {
    // Answers are awaited by `ask`: the library's own limit comes after it.
    let mut connection = store.connect(CONNECT.max(timeout), CONNECT + timeout).await?;
    let ping = redis::cmd("PING");
    match tokio::time::timeout(timeout, ping.query_async::<Value>(&mut connection)).await {
        Ok(answer) => answer.map(|_| connection),
        Err(late) => Err(std::io::Error::new(std::io::ErrorKind::TimedOut, late).into()),
    }
}

/// Between half the delay and all of it, so that many servers do not come at once.
fn jittered(delay: Duration) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    delay / 2 + (delay / 2).mul_f64(f64::from(now.subsec_nanos() % 1000) / 1000.0)
}
