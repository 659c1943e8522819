//! A small Kubernetes API server under kube's own client. It lists, watches, gets and patches, keeps
//! resourceVersions, and returns the faults that a test sets.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use changeover_core::error::{Error, Kind};
use changeover_kubernetes::{Access, Connection};
use changeover_token::Digest;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use http::{Method, Request, Response, header::RETRY_AFTER};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::{sync::Notify, time::Instant};
use tower::BoxError;

type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// Stores objects by their path.
#[derive(Default)]
pub(crate) struct ApiServer {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<String, Value>,
    changes: Vec<Change>,
    /// Watches from a version before this one receive 410 Gone.
    forgotten: u64,
    /// Watches of this collection receive no events.
    held: Option<String>,
    requests: Vec<Recorded>,
    faults: VecDeque<Fault>,
    connections: u64,
    discarded: u64,
    /// Verbs on resources that the caller does not have.
    denied: BTreeSet<(&'static str, &'static str)>,
    /// Paths of objects that the caller may not read.
    forbidden: BTreeSet<String>,
    /// Faults that answer changes of these objects, by their paths.
    admission: BTreeMap<String, Fault>,
    broken: BTreeMap<String, Fault>,
    /// What an operator does after each change of these objects.
    operators: BTreeMap<String, VecDeque<Vec<(String, Value)>>>,
    open: Option<(Connection, Instant)>,
    used_for: Option<Duration>,
    hidden: u32,
}

struct Change {
    version: u64,
    kind: &'static str,
    path: String,
    object: Value,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) at: Instant,
    pub(crate) content_type: String,
    pub(crate) accept: String,
    pub(crate) body: Value,
}

impl Recorded {
    /// True if the request persists nothing.
    pub(crate) fn is_dry_run(&self) -> bool {
        self.query.split('&').any(|parameter| parameter == "dryRun=All")
    }
}

/// An answer that replaces or disturbs the normal one.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// This status and a `Status` object.
    Status(u16),
    /// This status, and these words in a `Status` object.
    Says(u16, &'static str),
    /// No answer.
    Silence,
    /// The request is carried out, but never answered.
    LostReply,
    /// These bytes with status 200.
    Garbage(&'static str),
    /// The normal answer, after another client changed this object.
    After(String, Value),
    /// This status, a `Retry-After` of so many seconds, and a `Status` with the same delay.
    NotBefore(u16, u32),
    /// Half of the normal answer, and then a broken connection.
    Cut,
    /// Half of the normal answer, and then no further byte.
    Stall,
    /// The normal answer in ten pieces, with this pause before each.
    Trickle(Duration),
}

impl ApiServer {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Creates an object, or merges a change into it.
    pub(crate) fn put(&self, path: &str, change: Value) {
        self.state().put(path, change);
        self.changed.notify_waiters();
    }

    /// Replaces an object without an event, whatever the new one is.
    pub(crate) fn replace(&self, path: &str, object: Value) {
        self.state().objects.insert(path.to_owned(), object);
    }

    pub(crate) fn delete(&self, path: &str) {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        let mut object = state.objects.remove(path).expect("what is deleted exists");
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        state.changes.push(Change { version, kind: "DELETED", path: path.to_owned(), object });
        drop(state);
        self.changed.notify_waiters();
    }

    pub(crate) fn object(&self, path: &str) -> Value {
        self.state().objects[path].clone()
    }

    /// Denies the caller a right, for access reviews and lists.
    pub(crate) fn deny(&self, verb: &'static str, resource: &'static str) {
        self.state().denied.insert((verb, resource));
    }

    /// Forbids the caller to read this object.
    pub(crate) fn hide_object(&self, path: &str) {
        self.state().forbidden.insert(path.to_owned());
    }

    /// Makes admission answer each change of this object with this fault.
    pub(crate) fn admit(&self, path: &str, fault: Fault) {
        self.state().admission.insert(path.to_owned(), fault);
    }

    /// Makes an operator answer the next changes of this object by changes of its own, in this order.
    pub(crate) fn operate(
        &self,
        path: &str,
        reactions: impl IntoIterator<Item = Vec<(String, Value)>>,
    ) {
        self.state().operators.entry(path.to_owned()).or_default().extend(reactions);
    }

    /// Answers each read of this path like this.
    pub(crate) fn break_reads(&self, path: &str, fault: Fault) {
        self.state().broken.insert(path.to_owned(), fault);
    }

    /// Answers the next requests with these faults.
    pub(crate) fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().faults.extend(faults);
    }

    /// Discards the history, so that every watch must list again.
    pub(crate) fn forget_history(&self) {
        let mut state = self.state();
        state.version += 1;
        state.forgotten = state.version;
        drop(state);
        self.changed.notify_waiters();
    }

    /// Delays the watches of a collection until the next call of this method.
    pub(crate) fn hold_watches_of(&self, collection: Option<&str>) {
        self.state().held = collection.map(str::to_owned);
        self.changed.notify_waiters();
    }

    /// All requests so far, including watches and lists.
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.state().requests.clone()
    }

    /// Number of requests with this method and path.
    pub(crate) fn asked_for(&self, method: &Method, path: &str) -> usize {
        let is_it = |it: &&Recorded| it.method == method && it.path == path;
        self.state().requests.iter().filter(is_it).count()
    }

    /// The requested changes, without dry runs.
    pub(crate) fn patches(&self) -> Vec<Recorded> {
        let mut patches = self.requests();
        patches.retain(|it| it.method == Method::PATCH && !it.is_dry_run());
        patches
    }

    /// The dry runs.
    pub(crate) fn dry_runs(&self) -> Vec<Recorded> {
        self.requests().into_iter().filter(Recorded::is_dry_run).collect()
    }

    /// Numbers of connections that were made, and of those that were discarded.
    pub(crate) fn connections(&self) -> (u64, u64) {
        let state = self.state();
        (state.connections, state.discarded)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Sends a bookmark with the current version to the watches of these collections.
    pub(crate) fn bookmark(&self, collections: &[&str]) {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        let object = json!({
            "apiVersion": "v1", "kind": "Bookmark", "metadata": {"resourceVersion": version.to_string()},
        });
        for collection in collections {
            let path = format!("{collection}/");
            let object = object.clone();
            state.changes.push(Change { version, kind: "BOOKMARK", path, object });
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Discards the history before the last change: a watch from an earlier version must list again.
    pub(crate) fn compact(&self) {
        let mut state = self.state();
        state.forgotten = state.version;
    }

    /// Lets identities expire. A connection is handed out for this long, and its identity is accepted one
    /// minute longer.
    pub(crate) fn identities_end(&self, used_for: Duration) {
        self.state().used_for = Some(used_for);
    }

    /// Makes the lookup of the cluster fail this many times.
    pub(crate) fn hide(&self, times: u32) {
        let mut state = self.state();
        state.hidden = times;
        state.open = None;
    }

    #[expect(clippy::too_many_lines, reason = "the table of faults")]
    async fn answer(&self, request: Request<Body>, connected_at: Instant) -> Answer {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        let header = |name| {
            let value = parts.headers.get(name).map(|value: &http::HeaderValue| value.to_str());
            value.map_or_else(String::new, |value| value.unwrap().to_owned())
        };
        // Every request is recorded, including those that are answered with a fault.
        let recorded = Recorded {
            content_type: header(http::header::CONTENT_TYPE),
            accept: header(http::header::ACCEPT),
            method: parts.method,
            path: parts.uri.path().to_owned(),
            query: unescaped(parts.uri.query().unwrap_or_default()),
            at: Instant::now(),
            body: serde_json::from_slice(&body).unwrap_or_default(),
        };
        // An expired identity precedes all faults. A queued fault precedes that of admission, which
        // concerns changes only.
        let fault = {
            let mut state = self.state();
            state.requests.push(recorded.clone());
            let taken_for = state.used_for.map(|used_for| used_for + Duration::from_secs(60));
            if taken_for.is_some_and(|taken_for| connected_at.elapsed() > taken_for) {
                return status(401, "Unauthorized");
            }
            let admitted = state.admission.get(&recorded.path);
            let changes = [Method::PATCH, Method::POST].contains(&recorded.method);
            let admitted = admitted.filter(|_| changes).cloned();
            let broken = state.broken.get(&recorded.path).cloned();
            let broken = broken.filter(|_| recorded.method == Method::GET);
            state.faults.pop_front().or(admitted).or(broken)
        };
        // Faults after execution leave the change in place, as a lost or damaged reply does.
        match fault {
            None => self.carry_out(&recorded).await,
            Some(Fault::Status(code)) => status(code, "it was told to"),
            Some(Fault::Says(code, words)) => status(code, words),
            Some(Fault::Silence) => std::future::pending().await,
            Some(Fault::LostReply) => {
                self.carry_out(&recorded).await;
                std::future::pending().await
            }
            Some(Fault::Garbage(bytes)) => whole(bytes.as_bytes().to_vec()),
            Some(Fault::NotBefore(code, seconds)) => {
                let details = json!({"retryAfterSeconds": seconds});
                let mut response = status_with(code, "it was told to", details);
                response.headers_mut().insert(RETRY_AFTER, seconds.into());
                response
            }
            Some(Fault::Cut) => {
                let half = half(self.carry_out(&recorded).await).await;
                let broken: BoxError = "the connection broke".into();
                in_pieces(stream::iter([Ok(half), Err(broken)]))
            }
            Some(Fault::Stall) => {
                let half = half(self.carry_out(&recorded).await).await;
                in_pieces(stream::iter([Ok(half)]).chain(stream::pending()))
            }
            Some(Fault::Trickle(pause)) => {
                let bytes = self.carry_out(&recorded).await.into_body().collect().await;
                let bytes = bytes.unwrap().to_bytes();
                let size = bytes.len().div_ceil(10);
                let pieces: Vec<_> = bytes.chunks(size).map(Bytes::copy_from_slice).collect();
                in_pieces(stream::iter(pieces).then(move |piece| async move {
                    tokio::time::sleep(pause).await;
                    Ok(piece)
                }))
            }
            Some(Fault::After(path, change)) => {
                self.put(&path, change);
                self.carry_out(&recorded).await
            }
        }
    }

    #[expect(clippy::too_many_lines, reason = "the requests that it knows, one after the other")]
    async fn carry_out(&self, request: &Recorded) -> Answer {
        let parameter = |name: &str| {
            let mut pairs = request.query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        // Discovery and access reviews concern no stored object.
        if request.path == "/apis/external-secrets.io" {
            let version = json!({"groupVersion": "external-secrets.io/v1", "version": "v1"});
            return answer(&json!({"name": "external-secrets.io", "versions": [version]}));
        }
        if request.path == "/version" {
            return answer(&json!({"major": "1", "minor": "36"}));
        }
        let is_denied = |verb: &str, resource: &str| {
            self.state().denied.iter().any(|denied| *denied == (verb, resource))
        };
        if request.path.ends_with("/selfsubjectaccessreviews") {
            let asked = &request.body["spec"]["resourceAttributes"];
            let (verb, resource) = (asked["verb"].as_str(), asked["resource"].as_str());
            let denied = is_denied(verb.unwrap_or_default(), resource.unwrap_or_default());
            return answer(&json!({"spec": {}, "status": {"allowed": !denied}}));
        }
        // Denied rights apply before the object is looked up.
        if self.state().forbidden.contains(&request.path) {
            return status(403, "forbidden");
        }
        if is_denied("list", request.path.rsplit('/').next().unwrap_or_default()) {
            return status(403, "forbidden");
        }
        // Watches and lists share their selectors.
        let is_watch = parameter("watch").as_deref() == Some("true");
        let selects = |path: &str, object: &Value| {
            let (collection, _) = path.rsplit_once('/').unwrap();
            let fields = parameter("fieldSelector").is_none_or(|selector| {
                selector.split(',').all(|term| {
                    let (field, value) = term.split_once('=').unwrap();
                    object.pointer(&format!("/{}", field.replace('.', "/"))) == Some(&json!(value))
                })
            });
            let labels = parameter("labelSelector").is_none_or(|selector| {
                let labels = &object["metadata"]["labels"];
                if let Some((label, values)) = selector.split_once(" in (") {
                    let mut values = values.trim_end_matches(')').split(',');
                    return values.any(|value| labels[label] == json!(value));
                }
                selector.split(',').filter(|term| !term.is_empty()).all(|term| {
                    match term.split_once('=') {
                        Some((label, value)) => labels[label] == json!(value),
                        None => !labels[term].is_null(),
                    }
                })
            });
            collection == request.path && (path.ends_with('/') || fields && labels)
        };
        if is_watch {
            let since: u64 =
                parameter("resourceVersion").and_then(|it| it.parse().ok()).unwrap_or_default();
            loop {
                let changed = self.changed.notified();
                let mut events = String::new();
                {
                    let state = self.state();
                    if since < state.forgotten {
                        let gone = json!({"code": 410, "message": "too old", "reason": "Expired"});
                        events = json!({"type": "ERROR", "object": gone}).to_string();
                    } else if state.held.as_ref() != Some(&request.path) {
                        for change in state.changes.iter().filter(|it| it.version > since) {
                            if selects(&change.path, &change.object) {
                                let event = json!({"type": change.kind, "object": change.object});
                                events += &format!("{event}\n");
                            }
                        }
                    }
                }
                // The stream ends after the current events. kube's watcher requests the following ones.
                if !events.is_empty() {
                    return whole(events.into_bytes());
                }
                changed.await;
            }
        }
        // Reads and changes of objects. A dry run is answered without being stored.
        let mut state = self.state();
        match request.method {
            Method::PATCH if request.is_dry_run() => match state.objects.get(&request.path) {
                Some(object) => answer(object),
                None if request.content_type == "application/apply-patch+yaml" => {
                    answer(&request.body)
                }
                None => status(404, "not found"),
            },
            Method::GET if state.objects.contains_key(&request.path) => {
                answer(&state.objects[&request.path])
            }
            Method::GET if request.path.rsplit('/').nth(1) == Some("namespaces") => {
                status(404, "no such path")
            }
            Method::GET if PLURALS.iter().any(|plural| request.path.ends_with(plural)) => {
                let items: Vec<&Value> = state
                    .objects
                    .iter()
                    .filter(|(path, object)| selects(path, object))
                    .map(|(_, object)| object)
                    .collect();
                let version = json!({"resourceVersion": state.version.to_string()});
                answer(
                    &json!({"apiVersion": "v1", "kind": "List", "metadata": version, "items": items}),
                )
            }
            Method::PATCH if state.objects.contains_key(&request.path) => {
                let live = &state.objects[&request.path]["metadata"]["resourceVersion"];
                let expected = &request.body["metadata"]["resourceVersion"];
                if !expected.is_null() && expected != live {
                    return status(409, "the object has been modified");
                }
                let mut change = request.body.clone();
                change["metadata"].as_object_mut().unwrap().remove("resourceVersion");
                state.put(&request.path, change);
                let answered = answer(&state.objects[&request.path]);
                let reaction = state.operators.get_mut(&request.path).and_then(VecDeque::pop_front);
                for (path, change) in reaction.into_iter().flatten() {
                    state.put(&path, change);
                }
                drop(state);
                self.changed.notify_waiters();
                answered
            }
            // An apply with a resourceVersion creates no object.
            Method::PATCH if !request.body["metadata"]["resourceVersion"].is_null() => {
                status(409, "the object has been deleted")
            }
            Method::PATCH if request.content_type == "application/apply-patch+yaml" => {
                state.put(&request.path, request.body.clone());
                let answered = answer(&state.objects[&request.path]);
                let reaction = state.operators.get_mut(&request.path).and_then(VecDeque::pop_front);
                for (path, change) in reaction.into_iter().flatten() {
                    state.put(&path, change);
                }
                drop(state);
                self.changed.notify_waiters();
                answered
            }
            _ => status(404, "not found"),
        }
    }
}

impl State {
    fn put(&mut self, path: &str, change: Value) {
        self.version += 1;
        let version = self.version;
        let kind = if self.objects.contains_key(path) { "MODIFIED" } else { "ADDED" };
        let object = self.objects.entry(path.to_owned()).or_insert_with(|| {
            let name = path.rsplit('/').next().unwrap();
            json!({"metadata": {"name": name, "namespace": "web", "uid": format!("uid-{name}")}})
        });
        merge(object, change);
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let object = object.clone();
        self.changes.push(Change { version, kind, path: path.to_owned(), object });
    }
}

/// Merge patch of RFC 7386.
fn merge(into: &mut Value, change: Value) {
    let Value::Object(change) = change else {
        *into = change;
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    let into = into.as_object_mut().unwrap();
    for (field, value) in change {
        match value {
            Value::Null => drop(into.remove(&field)),
            value => merge(into.entry(field).or_insert(Value::Null), value),
        }
    }
}

fn answer(object: &Value) -> Answer {
    whole(object.to_string().into_bytes())
}

fn status(code: u16, message: &str) -> Answer {
    status_with(code, message, Value::Null)
}

fn status_with(code: u16, message: &str, details: Value) -> Answer {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code,
        "details": details,
    });
    let mut response = answer(&status);
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
    response
}

fn whole(bytes: Vec<u8>) -> Answer {
    in_pieces(stream::iter([Ok(bytes.into())]))
}

fn in_pieces(pieces: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Answer {
    Response::new(StreamBody::new(pieces.map_ok(Frame::data)).boxed_unsync())
}

async fn half(answer: Answer) -> Bytes {
    let whole = answer.into_body().collect().await.unwrap().to_bytes();
    whole.slice(..whole.len() / 2)
}

fn unescaped(query: &str) -> String {
    let escapes =
        [("+", " "), ("%3D", "="), ("%2C", ","), ("%2F", "/"), ("%28", "("), ("%29", ")")];
    escapes.iter().fold(query.to_owned(), |query, (from, to)| query.replace(from, to))
}

const PLURALS: [&str; 9] = [
    "/pods",
    "/deployments",
    "/statefulsets",
    "/daemonsets",
    "/replicasets",
    "/externalsecrets",
    "/events",
    "/cronjobs",
    "/jobs",
];

/// Access to one server under the name of every cluster. It reuses one connection until that is discarded.
pub(crate) struct Reached(pub(crate) Arc<ApiServer>);

#[async_trait]
impl Access for Reached {
    async fn connect(&self, _: &str) -> Result<Connection, Error> {
        let mut state = self.0.state();
        if state.hidden > 0 {
            state.hidden -= 1;
            return Err(Error::new(Kind::Unreachable, "find the cluster", "it hides", "seek it"));
        }
        if let Some((open, connected_at)) = &state.open
            && state.used_for.is_none_or(|used_for| connected_at.elapsed() < used_for)
        {
            return Ok(open.clone());
        }
        state.connections += 1;
        let connected_at = Instant::now();
        let server = Arc::clone(&self.0);
        let service = tower::service_fn(move |request| {
            let server = Arc::clone(&server);
            async move { Ok::<_, Infallible>(server.answer(request, connected_at).await) }
        });
        let client = Client::new(service, "default");
        let connection = Connection {
            client,
            introduce: "create an access entry".into(),
            generation: state.connections,
        };
        state.open = Some((connection.clone(), connected_at));
        Ok(connection)
    }

    async fn describe(&self, cluster: &str) -> Result<Digest, Error> {
        Ok(Digest::of(cluster))
    }

    async fn discard(&self, _: &str, connection: &Connection) {
        let mut state = self.0.state();
        state.discarded += 1;
        if state.open.as_ref().is_some_and(|(open, _)| open.generation == connection.generation) {
            state.open = None;
        }
    }
}
