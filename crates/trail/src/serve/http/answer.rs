//! The rows of one query, as they come.
//!
//! A task of its own runs the query, so that its record in the log has an end however the connection ends. It waits for its
//! client with each batch, and gives up when the client goes away or takes nothing any more. An answer that could not be
//! finished never looks like a whole one: a last line with the error in JSON lines, a body that breaks off otherwise.

use super::request::{Asked, Format, Refusal, Reply, line};
use crate::query::output::OutputError;
use crate::query::{Cancel, Format as TextFormat, Output};
use crate::serve::wire::error::WireError;
use crate::serve::{QueryError, Session, describe};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::StreamWriter;
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::Either;
use hyper::Response;
use hyper::body::{Body, Frame};
use hyper::header::{self, HeaderValue};
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use uuid::Uuid;

/// Pieces of an answer between the query and the connection.
const PIECES_AHEAD: usize = 1;
/// Rows that are written at once as text.
const PIECE_ROWS: usize = 1_000;
/// A client that takes nothing for so long is gone.
const WRITE_STALL_MAX: Duration = Duration::from_secs(60);
/// Header with the query's id in the log.
const QUERY_ID: &str = "x-keytrail-query-id";

/// Starts a query; gives its first rows as soon as they are there, or says why there are none.
pub(super) async fn start(session: Session, asked: Asked, stalled: Arc<Notify>) -> Result<Reply, Refusal> {
    let (head, begun) = oneshot::channel();
    let (pieces, receiver) = mpsc::channel(PIECES_AHEAD);
    let format = asked.format;
    tokio::spawn(Box::pin(run(session, asked, Out { head: Some(head), pieces, stalled, format })));
    let lost = |_| Refusal::from(WireError::new("XX000", "query was lost"));
    let id = begun.await.map_err(lost)??;
    let mut reply = Response::new(Either::Right(Rows(receiver)));
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(&id.to_string()) {
        headers.insert(QUERY_ID, id);
    }
    Ok(reply)
}

async fn run(session: Session, asked: Asked, mut out: Out) {
    match rows(session, &asked, &mut out).await {
        Ok((last, id)) => out.end(last, id).await,
        Err(Stopped::Error(error)) => out.fail(error).await,
        Err(Stopped::Gone) => {}
    }
}

/// Hands out all but the last bytes; the session has ended when this returns, so that the next query of its user may begin.
async fn rows(session: Session, asked: &Asked, out: &mut Out) -> Result<(Bytes, Uuid), Stopped> {
    let failed = |error: QueryError| Stopped::Error(WireError::of_query(&error, &asked.query, 0));
    let mut answer = session.run(&asked.query, None, Cancel::new()).await.map_err(failed)?;
    let id = answer.id();
    let mut writer = None;
    loop {
        let next = tokio::select! {
            next = answer.next() => next,
            // Dropping the answer ends the query and says in the log that its reader went away.
            () = out.closed() => return Err(Stopped::Gone),
        };
        let Some(batch) = next else { break };
        let batch = batch.map_err(failed)?;
        for at in (0..batch.num_rows()).step_by(PIECE_ROWS) {
            let piece = batch.slice(at, PIECE_ROWS.min(batch.num_rows() - at));
            let written = Writer::of(&mut writer, out.format, batch.schema()).and_then(|writer| writer.write(&piece));
            match written {
                Ok(bytes) => out.put(bytes, id).await?,
                Err(error) => {
                    answer.fail(&describe(&error)).await;
                    return Err(no_form(&error));
                }
            }
        }
    }
    let finished = Writer::of(&mut writer, out.format, answer.schema()).and_then(Writer::finish);
    finished.map(|last| (last, id)).map_err(|error| no_form(&error))
}

/// Why nothing more is written.
enum Stopped {
    /// The client is gone.
    Gone,
    /// The query.
    Error(WireError),
}

/// Values that the format has no form for, such as structs in CSV.
fn no_form(error: &OutputError) -> Stopped {
    Stopped::Error(WireError::new("0A000", format!("{}; another format may do", describe(error))))
}

/// Where an answer goes.
struct Out {
    /// Until the first rows are there: how the query began.
    head: Option<oneshot::Sender<Result<Uuid, Refusal>>>,
    pieces: mpsc::Sender<Piece>,
    stalled: Arc<Notify>,
    format: Format,
}

/// A part of an answer. Without an end it was broken off.
enum Piece {
    Bytes(Bytes),
    End,
}

impl Out {
    /// Waits until nobody reads any more.
    async fn closed(&mut self) {
        match &mut self.head {
            Some(head) => head.closed().await,
            None => self.pieces.closed().await,
        }
    }

    async fn put(&mut self, bytes: Bytes, id: Uuid) -> Result<(), Stopped> {
        if let Some(head) = self.head.take() {
            head.send(Ok(id)).map_err(|_| Stopped::Gone)?;
        }
        if bytes.is_empty() { Ok(()) } else { self.send(Piece::Bytes(bytes)).await }
    }

    async fn end(&mut self, bytes: Bytes, id: Uuid) {
        if self.put(bytes, id).await.is_ok() {
            // The client may be gone by now.
            let _ = self.send(Piece::End).await;
        }
    }

    /// Before the first rows the error is the answer; after them it is visible at the end.
    async fn fail(&mut self, error: WireError) {
        if let Some(head) = self.head.take() {
            // Nobody may be there to hear it.
            let _ = head.send(Err(error.into()));
        } else if self.format == Format::Jsonl && self.send(Piece::Bytes(line(&error))).await.is_ok() {
            let _ = self.send(Piece::End).await;
        }
    }

    async fn send(&self, piece: Piece) -> Result<(), Stopped> {
        match tokio::time::timeout(WRITE_STALL_MAX, self.pieces.send(piece)).await {
            Ok(sent) => sent.map_err(|_| Stopped::Gone),
            Err(_) => {
                self.stalled.notify_one();
                Err(Stopped::Gone)
            }
        }
    }
}

/// The body of an answer.
pub(super) struct Rows(mpsc::Receiver<Piece>);

/// The query failed after its first rows.
#[derive(Debug, thiserror::Error)]
#[error("answer was broken off")]
pub(super) struct Broken;

impl Body for Rows {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        Poll::Ready(match ready!(self.0.poll_recv(context)) {
            Some(Piece::Bytes(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Piece::End) => None,
            None => Some(Err(Broken)),
        })
    }
}

/// Makes bytes of batches.
struct Writer {
    buffer: Buffer,
    form: Form,
}

enum Form {
    Text(Output<Buffer>),
    Arrow(Box<StreamWriter<Buffer>>),
}

impl Writer {
    /// The writer of an answer, made with its first batch.
    fn of(made: &mut Option<Self>, format: Format, schema: SchemaRef) -> Result<&mut Self, OutputError> {
        let writer = match made.take() {
            Some(writer) => writer,
            None => Self::new(format, schema)?,
        };
        Ok(made.insert(writer))
    }

    fn new(format: Format, schema: SchemaRef) -> Result<Self, OutputError> {
        let buffer = Buffer::default();
        let form = match format {
            Format::Jsonl => Form::Text(Output::new(buffer.clone(), TextFormat::Jsonl, schema)),
            Format::Csv => Form::Text(Output::new(buffer.clone(), TextFormat::Csv, schema)),
            Format::Arrow => Form::Arrow(Box::new(StreamWriter::try_new(buffer.clone(), &schema)?)),
        };
        Ok(Self { buffer, form })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<Bytes, OutputError> {
        match &mut self.form {
            Form::Text(output) => output.write(batch)?,
            Form::Arrow(writer) => writer.write(batch)?,
        }
        Ok(self.buffer.take())
    }

    /// What is at the end: the header line of an empty CSV, Arrow's mark.
    fn finish(&mut self) -> Result<Bytes, OutputError> {
        match &mut self.form {
            Form::Text(output) => output.end()?,
            Form::Arrow(writer) => writer.finish()?,
        }
        Ok(self.buffer.take())
    }
}

/// Bytes that a writer has made and nobody has taken yet.
#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<BytesMut>>);

impl Buffer {
    fn take(&self) -> Bytes {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).split().freeze()
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).put_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
