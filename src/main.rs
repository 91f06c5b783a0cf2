//! The `keytrail` command: parses the command line, sets up messages, hands over to one file per subcommand.
//!
//! Messages go to stderr as one JSON object a line (or plain with a terminal); results go to stdout. Read cli.rs for
//! what there is, `commands/up.rs` for how the parts run together.

mod cli;
mod commands;
mod config;
mod shipped;

use clap::Parser;
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    listen_to_messages();
    // Does nothing unless built with fail points; the crash tests set FAILPOINTS.
    #[cfg(feature = "testing")]
    let _scenario = commands::fail_points();
    commands::give_way(&cli.command);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(error = %error, "cannot start the runtime");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(commands::run(cli.command)) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{}", keytrail_kms::describe(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn listen_to_messages() {
    let filter = EnvFilter::try_from_env("KEYTRAIL_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let messages = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    if std::io::stderr().is_terminal() {
        messages.without_time().init();
    } else {
        messages.json().flatten_event(true).init();
    }
}
