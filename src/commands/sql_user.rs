//! `keytrail sql-user`: who may come in through the SQL servers. A password is turned into a verifier here and forgotten.

use super::say;
use crate::cli::SqlUserCommand;
use anyhow::{Context, bail};
use keytrail_trail::serve::users::{USERS_FILE, add_user, list_users, remove_user};
use std::io::{IsTerminal, Read};
use std::path::Path;
use zeroize::Zeroizing;

/// Longest file with a password.
const FILE_BYTES_MAX: u64 = 1_024;

pub(crate) fn run(command: SqlUserCommand) -> anyhow::Result<()> {
    match command {
        SqlUserCommand::Add { data, name, role, password_file } => {
            let password = match password_file {
                Some(file) => read(&file)?,
                None => asked(&name)?,
            };
            add_user(&data.data, &name, &password, role.as_deref()).context("add the user")?;
            say(&format!("{name} is in {}", data.data.join(USERS_FILE).display()));
        }
        SqlUserCommand::Remove { data, name } => {
            if !remove_user(&data.data, &name).context("take the user out")? {
                bail!("there is no user {name} in {}", data.data.join(USERS_FILE).display());
            }
            say(&format!("{name} is out"));
        }
        SqlUserCommand::List(data) => {
            for (name, role) in list_users(&data.data).context("list the users")? {
                say(&format!("{name} {role}"));
            }
        }
    }
    Ok(())
}

/// The file's text without the line's end.
fn read(file: &Path) -> anyhow::Result<Zeroizing<String>> {
    // Room for all at once: a growing buffer would leave copies behind.
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(FILE_BYTES_MAX)?));
    let opened = std::fs::File::open(file).with_context(|| format!("read {}", file.display()))?;
    opened.take(FILE_BYTES_MAX).read_to_string(&mut text).with_context(|| format!("read {}", file.display()))?;
    let end = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(end);
    Ok(text)
}

fn asked(name: &str) -> anyhow::Result<Zeroizing<String>> {
    if !std::io::stdin().is_terminal() {
        bail!("there is no terminal to ask for the password: give --password-file");
    }
    let ask = |prompt: String| rpassword::prompt_password(prompt).map(Zeroizing::new).context("read the password");
    let (first, second) = (ask(format!("Password of {name}: "))?, ask("The same again: ".to_owned())?);
    if first != second {
        bail!("the two passwords differ");
    }
    Ok(first)
}
