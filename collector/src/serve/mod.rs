//! The daemon: one source, measured for whoever asks.
//!
//! The main thread takes frames from the source and publishes them into the [`hub::Hub`]; it never waits for a client. One
//! other thread serves clients: gRPC over the socket, and `/metrics`. It has no privileges left, as [`privileges`] says. A
//! third exports over OTLP, where that is wanted.

pub mod access;
pub mod config;
pub mod grpc;
pub mod http;
pub mod hub;
pub mod listen;
pub mod metrics;
pub mod otlp;
pub mod privileges;
mod systemd;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::cli::live::{Asked, Finished, Signals, Warnings, given_up, note, tell};
use crate::cli::{Failure, Globals};
use crate::frame::Meta;
use crate::options::RunOptions;
use crate::source::{Session, confine};
use access::Access;
use config::Config;
use grpc::{Counts, Serving};
use http::Pages;
use hub::Hub;
use listen::Socket;
use otlp::{Exporter, Target};
use systemd::Manager;

/// The last frame may be so old for the daemon to be well, or three intervals if that is longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the daemon is to do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Path of the socket.
    pub socket: PathBuf,
    /// Group whose members may connect.
    pub gid: Option<u32>,
    /// Where `/metrics` and `/healthz` are.
    pub metrics: Option<SocketAddr>,
    /// Where metrics and findings go over OTLP.
    pub otlp: Option<Target>,
    /// Configuration file.
    pub config: Option<PathBuf>,
}

/// Runs until the source ends, `--duration` is over, or SIGINT or SIGTERM comes. SIGHUP reads the configuration again.
pub fn run(settings: &Settings, globals: &Globals, options: &RunOptions) -> Result<(), Failure> {
    let mut config = match &settings.config {
        Some(path) => Config::read(path)?,
        None => Config::default(),
    };
    let mut options = options.clone();
    let asked = options.interval;
    options.interval = config.interval.unwrap_or(asked);
    // What cannot be listened at is known before anything is attached.
    let socket = Socket::bind(&settings.socket, settings.gid)?;
    let pages = settings.metrics.map(listen_tcp).transpose()?;
    let privileges = |error: String| {
        Failure::new(
            "privileges cannot be given up",
            error,
            "as root, or without any capability",
        )
    };
    privileges::before_attaching().map_err(privileges)?;
    let session = Session::start(&options)?;
    let daemon = Daemon {
        globals,
        hub: Arc::default(),
        counts: Arc::default(),
        stopping: watch::Sender::new(false),
        patience: watch::Sender::new(patience(options.interval)),
        instances: watch::Sender::new(config.instances),
        otlp_interval: watch::Sender::new(config.otlp_interval),
    };
    daemon.hub.set_thresholds(config.thresholds.clone());
    let access = Access {
        uid: nix::unistd::Uid::effective().as_raw(),
        gid: settings.gid,
    };
    let server = daemon.server(&socket, access, pages)?;
    privileges::give_up().map_err(privileges)?;
    let exporter = settings
        .otlp
        .clone()
        .map(|target| daemon.exporter(target))
        .transpose()?;
    daemon.say(&format!(
        "listening at unix:{}{}",
        socket.path.display(),
        settings
            .metrics
            .map_or_else(String::new, |at| format!(", http://{at}/metrics"))
    ));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| cannot_serve(&error))?;
    // What a configuration without an interval goes back to.
    options.interval = asked;
    let followed = runtime.block_on(daemon.follow(session, settings, &options, &mut config));
    // Clients get what was published last, and an end.
    daemon.hub.end();
    daemon.stopping.send_replace(true);
    // A panic there has been reported by the thread itself.
    let _ = server.join();
    if let Some(exporter) = exporter {
        let _ = exporter.join();
    }
    drop(socket);
    followed?.check()
}

fn patience(interval: Duration) -> Duration {
    PATIENCE.max(interval.saturating_mul(3))
}

fn listen_tcp(at: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(at)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|error| {
            Failure::new(
                format!("cannot listen at {at} for /metrics"),
                error.to_string(),
                "--metrics with another port, or --metrics off",
            )
        })
}

fn cannot_serve(error: &io::Error) -> Failure {
    Failure::new(
        "clients cannot be served",
        error.to_string(),
        "check the limits of threads and open files (ulimit -a)",
    )
}

struct Daemon<'a> {
    globals: &'a Globals,
    hub: Arc<Hub>,
    counts: Arc<Counts>,
    stopping: watch::Sender<bool>,
    patience: watch::Sender<Duration>,
    instances: watch::Sender<usize>,
    otlp_interval: watch::Sender<Duration>,
}

impl Daemon<'_> {
    fn say(&self, text: &str) {
        if !self.globals.quiet {
            note(text);
        }
    }

    /// Starts the thread that talks to clients, and waits until it has given up its privileges.
    fn server(
        &self,
        socket: &Socket,
        access: Access,
        pages: Option<TcpListener>,
    ) -> Result<JoinHandle<()>, Failure> {
        let failed = |error: io::Error| cannot_serve(&error);
        let listener = socket.listener.try_clone().map_err(failed)?;
        let serving = Serving {
            hub: Arc::clone(&self.hub),
            counts: Arc::clone(&self.counts),
            access,
            stopping: self.stopping.subscribe(),
            quiet: self.globals.quiet,
        };
        let shown = Pages {
            hub: Arc::clone(&self.hub),
            counts: Arc::clone(&self.counts),
            patience: self.patience.subscribe(),
            instances: self.instances.subscribe(),
        };
        let stopping = self.stopping.subscribe();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let (confined, result) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("serve".into())
            .spawn(move || {
                let closed = privileges::close_everything();
                let ready = closed.is_ok();
                // Whoever waits for it lives as long as this thread.
                let _ = confined.send(closed);
                if !ready {
                    return;
                }
                let served = runtime.block_on(async {
                    let pages = async {
                        if let Some(listener) = pages {
                            let listener = tokio::net::TcpListener::from_std(listener)?;
                            http::serve(listener, shown, stopping).await;
                        }
                        Ok::<_, io::Error>(())
                    };
                    let listener = tokio::net::UnixListener::from_std(listener)?;
                    let clients = async {
                        grpc::serve(listener, serving).await;
                        Ok(())
                    };
                    tokio::try_join!(pages, clients).map(drop)
                });
                if let Err(error) = served {
                    note(&format!("error: clients are not served: {error}"));
                }
                // Streams end with the hub: they get a moment for it.
                runtime.shutdown_timeout(Duration::from_secs(2));
            })
            .map_err(failed)?;
        match result.recv() {
            Ok(Ok(files)) => {
                self.say(&format!(
                    "privileges: the thread that talks to clients has no capability, and {files}"
                ));
                Ok(thread)
            }
            Ok(Err(error)) => Err(Failure::new(
                "the thread that talks to clients cannot give up its privileges",
                error,
                "a kernel with capabilities that may be dropped",
            )),
            Err(_) => Err(cannot_serve(&io::Error::other("its thread has ended"))),
        }
    }

    /// Starts the thread that exports. It has no privileges: the thread that starts it has none.
    fn exporter(&self, target: Target) -> Result<JoinHandle<()>, Failure> {
        let exporter = Exporter {
            hub: Arc::clone(&self.hub),
            target,
            every: self.otlp_interval.subscribe(),
            stopping: self.stopping.subscribe(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| cannot_serve(&error))?;
        std::thread::Builder::new()
            .name("otlp".into())
            .spawn(move || runtime.block_on(exporter.run()))
            .map_err(|error| cannot_serve(&error))
    }

    async fn follow(
        &self,
        mut session: Session,
        settings: &Settings,
        options: &RunOptions,
        config: &mut Config,
    ) -> Result<Finished, Failure> {
        let mut signals = Signals::new().map_err(|error| cannot_serve(&error))?;
        let mut manager = Manager::new();
        let mut finished = Finished::default();
        let mut attached = false;
        let mut stopping = false;
        let mut deadline = None;
        loop {
            tokio::select! {
                frame = session.frames.recv() => {
                    let Some(frame) = frame else { break };
                    finished.frames += 1;
                    if !attached && let Some(meta) = &frame.meta && !meta.attaching {
                        attached = true;
                        let kernel = meta.source == "kernel";
                        confine::ask(kernel);
                        self.say(&kept(kernel));
                        Manager::measuring(&measured(meta));
                        // A duration that no clock can reach is no limit.
                        let limit = |length| Instant::now().checked_add(length);
                        deadline = self.globals.duration.and_then(limit);
                    }
                    if let Some(end) = &frame.end {
                        finished.end = Some(end.clone());
                    }
                    tell(self.globals, Warnings::Told, &frame);
                    self.hub.publish(&frame);
                    manager.alive();
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    deadline = None;
                    stopping = true;
                    Manager::stopping();
                    session.stop();
                }
                signal = signals.next() => match signal {
                    Asked::Hangup => self.reload(settings, options, &session, config),
                    Asked::Stop if stopping => {
                        return Err(given_up());
                    }
                    Asked::Stop => {
                        stopping = true;
                        Manager::stopping();
                        session.stop();
                    }
                },
            }
        }
        finished.completed(&session)
    }

    /// Reads the configuration again. One that cannot be used changes nothing.
    fn reload(
        &self,
        settings: &Settings,
        options: &RunOptions,
        session: &Session,
        config: &mut Config,
    ) {
        let Some(path) = &settings.config else {
            self.say("SIGHUP: there is no --config to read again");
            return;
        };
        Manager::reloading();
        match Config::read(path) {
            Ok(new) => {
                let interval = new.interval.unwrap_or(options.interval);
                session.set_interval(interval);
                self.patience.send_replace(patience(interval));
                self.instances.send_replace(new.instances);
                self.otlp_interval.send_replace(new.otlp_interval);
                self.hub.set_thresholds(new.thresholds.clone());
                *config = new;
                self.say(&format!("{} was read again", path.display()));
            }
            Err(failure) => note(&format!("{failure}(what was configured before holds)")),
        }
        Manager::ready();
    }
}

/// What is measured, and how, for who looks at the service.
fn measured(meta: &Meta) -> String {
    let driver = match meta.source.as_str() {
        "kernel" => "the driver of the kernel",
        _ => "the EMULATED driver",
    };
    format!(
        "measuring {driver}, {}, by {} probes",
        meta.generation, meta.probe
    )
}

fn kept(kernel: bool) -> String {
    let kept: &[_] = if kernel {
        &confine::KERNEL
    } else {
        &confine::EMULATOR
    };
    format!(
        "privileges: everything is attached; the source's threads keep at most {}",
        privileges::names(kept)
    )
}
