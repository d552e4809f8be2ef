//! Directories that outlive a loss of power.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Makes a directory, and those above it, so that they stay.
pub(crate) fn create_directory(directory: &Path) -> io::Result<()> {
    let directory = std::path::absolute(directory)?;
    let new = directory.ancestors().take_while(|path| !path.exists()).count();
    fs::create_dir_all(&directory)?;
    // A name is kept by the directory it stands in: the last of these was there before.
    directory.ancestors().take(new + 1).try_for_each(sync_directory)
}

/// Makes the names in a directory stay as they are now.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
