//! How far an import has come, in a file beside the one that is imported.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::Tally;
use crate::output::Fault;

/// What the name of the note ends with.
const ENDING: &str = "persona-import";

#[derive(Debug, Serialize, Deserialize)]
pub struct Note {
    /// Of the file that is imported, in hexadecimal: another one begins anew.
    sha256: String,
    client_id: String,
    pub tally: Tally,
    #[serde(skip)]
    path: PathBuf,
}

impl Note {
    /// The note of an import of this very file that broke off.
    ///
    /// # Errors
    /// When the file or its note cannot be read.
    pub fn find(file: &Path, client_id: &str) -> Result<Option<Note>, Fault> {
        let path = path_of(file);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|error| fault(&path, &error))?,
        };
        let note: Note = serde_json::from_slice(&text).map_err(|error| unreadable(&path, &error))?;
        let is_of_this = note.sha256 == sha256(file)? && note.client_id == client_id;
        Ok(is_of_this.then_some(Note { path, ..note }))
    }

    /// The note of an import that begins.
    ///
    /// # Errors
    /// When the file cannot be read, or the note not be written.
    pub fn begin(file: &Path, client_id: &str) -> Result<Note, Fault> {
        let (sha256, client_id) = (sha256(file)?, client_id.to_owned());
        let mut note = Note { sha256, client_id, tally: Tally::default(), path: path_of(file) };
        note.keep(Tally::default())?;
        Ok(note)
    }

    /// Writes down how far it has come, whole or not at all, also when the machine stops.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&mut self, tally: Tally) -> Result<(), Fault> {
        self.tally = tally;
        let draft = self.path.with_added_extension("new");
        let text = serde_json::to_vec(self).map_err(Fault::said)?;
        let write = || {
            let mut file = File::create(&draft)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&draft, &self.path)
        };
        write().map_err(|error| fault(&self.path, &error))
    }

    /// It is over.
    ///
    /// # Errors
    /// When the note cannot be removed.
    pub fn remove(self) -> Result<(), Fault> {
        std::fs::remove_file(&self.path).map_err(|error| fault(&self.path, &error))
    }
}

fn path_of(file: &Path) -> PathBuf {
    file.with_added_extension(ENDING)
}

fn fault(path: &Path, error: &dyn std::error::Error) -> Fault {
    Fault::said(format!("{}: {error}", path.display()))
}

fn unreadable(path: &Path, error: &serde_json::Error) -> Fault {
    let path = path.display();
    Fault::said(format!(
        "{path}: is no note of an import: {error}; remove it to begin anew, what is there stays as it is"
    ))
}

fn sha256(path: &Path) -> Result<String, Fault> {
    let mut file = File::open(path).map_err(|error| fault(path, &error))?;
    let (mut context, mut buffer) = (Context::new(&SHA256), vec![0; 64 * 1024]);
    loop {
        match file.read(&mut buffer).map_err(|error| fault(path, &error))? {
            0 => break,
            length => context.update(&buffer[..length]),
        }
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_of_one_file_and_client_and_gone_when_it_is_over() {
        let file = std::env::temp_dir().join(format!("persona-note-{}", uuid::Uuid::new_v4()));
        std::fs::write(&file, "email\n").expect("written");
        assert!(Note::find(&file, "web").expect("read").is_none());
        let mut note = Note::begin(&file, "web").expect("a note");
        note.keep(Tally { total: 7, created: 7, ..Tally::default() }).expect("kept");
        let found = Note::find(&file, "web").expect("read").expect("a note");
        assert_eq!(found.tally.total, 7);
        assert!(Note::find(&file, "shop").expect("read").is_none());
        std::fs::write(&file, "email\na@x.org\n").expect("written");
        assert!(Note::find(&file, "web").expect("read").is_none());
        note.remove().expect("removed");
        assert!(!path_of(&file).exists());
        std::fs::write(path_of(&file), "{\"sha2").expect("written");
        let fault = Note::find(&file, "web").expect_err("no note").to_string();
        assert!(fault.contains("remove it to begin anew"), "{fault}");
        std::fs::remove_file(path_of(&file)).expect("removed");
        std::fs::remove_file(&file).expect("removed");
    }
}
