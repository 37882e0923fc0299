//! Connections to the database: a few lanes, one statement at a time on each, each statement bounded in time.
//!
//! One thread drives them all. A statement that is not answered in time closes its connection, so that a cut network
//! holds nobody up and a late answer reaches nobody. Whether a lost statement was done is nobody's question here: what
//! is sent again by itself is only what the database refused for the sake of order, and what never left.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{Sender, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Address, CHANNEL};

/// After a failure, how long nothing is tried on the same lane: whoever waits in line is told at once.
const COOL: Duration = Duration::from_millis(250);
/// How often a statement is repeated that the database refused for the sake of order.
const REPEATS: u32 = 6;

/// What went wrong, for a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LinkFault {
    /// No answer: not reached, cut off, or too late.
    #[error("{0}")]
    Unreachable(String),
    /// The database answered with an error that trying again does not mend.
    #[error("{0}")]
    Refused(String),
}

/// A value in a statement.
#[derive(Clone, Debug)]
pub(super) enum Param {
    Text(String),
    Whole(i64),
}

enum Work {
    Query(&'static str, Vec<Param>),
    Script(String),
}

struct Request {
    work: Work,
    asked: Instant,
    reply: SyncSender<Result<Vec<Row>, LinkFault>>,
}

/// The lanes.
#[derive(Debug)]
pub(super) struct Link {
    lanes: Vec<UnboundedSender<Request>>,
    patience: Duration,
}

impl Link {
    /// Opens `lanes` lanes; nothing is connected before it is needed. With `bell`, one more connection listens, and the
    /// bell rings whenever gates are told to look for orders.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn open(
        address: Address,
        lanes: usize,
        patience: Duration,
        bell: Option<Sender<()>>,
    ) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let address = Arc::new(address);
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..lanes).map(|_| unbounded_channel()).unzip();
        thread::Builder::new().name("weir-shared".into()).spawn(move || {
            runtime.block_on(async move {
                let listener = bell.map(|bell| tokio::spawn(listen(address.clone(), bell)));
                let lanes: Vec<_> = receivers
                    .into_iter()
                    .map(|requests| tokio::spawn(Lane::new(address.clone(), patience).run(requests)))
                    .collect();
                for lane in lanes {
                    let _ = lane.await;
                }
                listener.iter().for_each(JoinHandle::abort);
            });
        })?;
        Ok(Self { lanes: senders, patience })
    }

    pub(super) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Runs one statement on `lane` and waits for its rows.
    pub(super) fn query(&self, lane: usize, sql: &'static str, params: Vec<Param>) -> Result<Vec<Row>, LinkFault> {
        self.ask(lane, Work::Query(sql, params))
    }

    /// Runs several statements without parameters, all or none.
    pub(super) fn script(&self, sql: String) -> Result<(), LinkFault> {
        self.ask(0, Work::Script(sql)).map(drop)
    }

    fn ask(&self, lane: usize, work: Work) -> Result<Vec<Row>, LinkFault> {
        let gone = || LinkFault::Unreachable("the thread that speaks to the database is gone".into());
        let (reply, answer) = sync_channel(1);
        let lane = self.lanes.get(lane % self.lanes.len().max(1)).ok_or_else(gone)?;
        lane.send(Request { work, asked: Instant::now(), reply }).map_err(|_| gone())?;
        // The lane itself is bounded; this bound is for a machine that does not let it run.
        answer.recv_timeout(self.patience * (REPEATS + 2)).unwrap_or_else(|_| Err(gone()))
    }
}

/// One connection with its driver.
struct Session {
    client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        // Closes the socket, whatever is still under way on it.
        self.driver.abort();
    }
}

struct Lane {
    address: Arc<Address>,
    patience: Duration,
    session: Option<Session>,
    failed: Option<(Instant, String)>,
}

impl Lane {
    fn new(address: Arc<Address>, patience: Duration) -> Self {
        Self { address, patience, session: None, failed: None }
    }

    async fn run(mut self, mut requests: UnboundedReceiver<Request>) {
        while let Some(Request { work, asked, reply }) = requests.recv().await {
            if let Some(fault) = self.cooling() {
                let _ = reply.send(Err(fault));
                continue;
            }
            let answer = self.serve(&work, asked).await;
            self.failed = match &answer {
                Err(LinkFault::Unreachable(why)) => Some((Instant::now(), why.clone())),
                Ok(_) | Err(LinkFault::Refused(_)) => None,
            };
            // Whoever no longer waits does not need the answer.
            let _ = reply.send(answer);
        }
    }

    /// The failure of a moment ago: whoever stood in line behind it need not find out again.
    fn cooling(&self) -> Option<LinkFault> {
        let (_, why) = self.failed.as_ref().filter(|(at, _)| at.elapsed() < COOL)?;
        Some(LinkFault::Unreachable(why.clone()))
    }

    async fn serve(&mut self, work: &Work, asked: Instant) -> Result<Vec<Row>, LinkFault> {
        let late = || LinkFault::Unreachable("the database did not answer in time".to_owned());
        for attempt in 0..REPEATS {
            if asked.elapsed() > self.patience * 2 {
                return Err(late());
            }
            let patience = self.patience;
            let result = match timeout(patience, self.once(work)).await {
                Ok(result) => result,
                Err(_) => {
                    self.session = None;
                    return Err(late());
                }
            };
            match result {
                Ok(rows) => return Ok(rows),
                Err(error) if is_about_order(&error) => {
                    tokio::time::sleep(Duration::from_millis(2 << attempt)).await;
                }
                Err(error) => return Err(self.told(&error)),
            }
        }
        Err(LinkFault::Unreachable("the database refused the statement again and again for the sake of order".into()))
    }

    async fn once(&mut self, work: &Work) -> Result<Vec<Row>, tokio_postgres::Error> {
        if self.session.as_ref().is_none_or(|session| session.client.is_closed()) {
            self.session = Some(connect(&self.address, None).await?);
        }
        let Some(session) = &self.session else { return Ok(Vec::new()) };
        match work {
            Work::Script(sql) => session.client.batch_execute(sql).await.map(|()| Vec::new()),
            Work::Query(sql, params) => {
                let params: Vec<(&(dyn ToSql + Sync), Type)> = params
                    .iter()
                    .map(|param| match param {
                        Param::Text(text) => (text as &(dyn ToSql + Sync), Type::TEXT),
                        Param::Whole(number) => (number as &(dyn ToSql + Sync), Type::INT8),
                    })
                    .collect();
                session.client.query_typed(sql, &params).await
            }
        }
    }

    fn told(&mut self, error: &tokio_postgres::Error) -> LinkFault {
        match error.as_db_error() {
            // The server speaks, and is on its way down or not yet up.
            Some(said) if said.code().code().starts_with("57P") || said.code().code().starts_with("08") => {
                self.session = None;
                LinkFault::Unreachable(format!("the database says: {}", said.message()))
            }
            Some(said) => LinkFault::Refused(format!("the database says: {}", said.message())),
            None => {
                self.session = None;
                LinkFault::Unreachable(format!("the database cannot be reached: {}", root(error)))
            }
        }
    }
}

/// Serialisation failures and deadlocks: nothing was done, and the same statement may do it.
fn is_about_order(error: &tokio_postgres::Error) -> bool {
    error
        .code()
        .is_some_and(|code| [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(code))
}

/// The innermost cause: the layers around it say only where it went through.
fn root(error: &tokio_postgres::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// A commit that is confirmed must survive a crash of the server, whatever it is set to for others.
const SETTINGS: &str =
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

async fn connect(address: &Address, bell: Option<Sender<()>>) -> Result<Session, tokio_postgres::Error> {
    let (client, driver) = match &address.tls {
        None => {
            let (client, connection) = address.config.connect(NoTls).await?;
            (client, tokio::spawn(drive(connection, bell)))
        }
        Some(tls) => {
            let (client, connection) = address.config.connect(MakeRustlsConnect::new(tls.clone())).await?;
            (client, tokio::spawn(drive(connection, bell)))
        }
    };
    let session = Session { client, driver };
    session.client.batch_execute(SETTINGS).await?;
    Ok(session)
}

/// Drives a connection to its end; every notification rings the bell.
async fn drive<S, T>(mut connection: Connection<S, T>, bell: Option<Sender<()>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if let (AsyncMessage::Notification(_), Some(bell)) = (message, &bell) {
            let _ = bell.send(());
        }
    }
}

/// Listens for as long as the link lives. An engine without notifications is looked at by the heartbeat alone.
async fn listen(address: Arc<Address>, bell: Sender<()>) {
    loop {
        if let Ok(mut session) = connect(&address, Some(bell.clone())).await
            && session.client.batch_execute(&format!("LISTEN {CHANNEL}")).await.is_ok()
        {
            // Ends when the connection does; what was missed meanwhile is found at once.
            let _ = bell.send(());
            until_closed(&mut session.driver).await;
        }
        tokio::time::sleep(COOL * 2).await;
    }
}

async fn until_closed(driver: &mut JoinHandle<()>) {
    let mut driver = pin!(driver);
    let _ = poll_fn(|context| driver.as_mut().poll(context)).await;
}
