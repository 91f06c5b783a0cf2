//! `keytrail incident user`: who may deal with incidents over HTTP. A token is printed once and forgotten.

use crate::cli::IncidentUserCommand;
use crate::commands::say;
use anyhow::{Context, bail};
use keytrail_responder::http::users::{USERS_FILE, add_user, list_users, remove_user};

pub(super) fn run(command: IncidentUserCommand) -> anyhow::Result<()> {
    match command {
        IncidentUserCommand::Add { data, name, mail } => {
            let token = add_user(&data.data, &name, mail.as_deref()).context("add the user")?;
            say(&token);
        }
        IncidentUserCommand::Remove { data, name } => {
            if !remove_user(&data.data, &name).context("take the user out")? {
                bail!("there is no user {name} in {}", data.data.join(USERS_FILE).display());
            }
            say(&format!("{name} is out"));
        }
        IncidentUserCommand::List(data) => {
            for (name, mail) in list_users(&data.data).context("list the users")? {
                say(&format!("{name} {}", mail.as_deref().unwrap_or("-")));
            }
        }
    }
    Ok(())
}
