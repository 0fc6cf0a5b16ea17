//! Files that are whole or not there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Error};
use std::path::{Path, PathBuf};

/// Has `path` hold what `write` writes: first into a new file beside it, which then takes its place. A failure leaves
/// what was there. Only files are replaced: nothing else that has the name, such as a directory or a device.
pub(super) fn replace(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    if let Ok(there) = fs::metadata(path)
        && !there.is_file()
    {
        return Err(Error::from_raw_os_error(if there.is_dir() { libc::EISDIR } else { libc::EINVAL }));
    }
    let (part, file) = create_beside(path)?;
    let written = || {
        let mut buffer = BufWriter::with_capacity(1 << 16, file);
        write(&mut buffer)?;
        let file = buffer.into_inner().map_err(io::IntoInnerError::into_error)?;
        // What the system has no room for it may say only now.
        file.sync_all()?;
        fs::rename(&part, path)
    };
    written().inspect_err(|_| {
        let _ = fs::remove_file(&part);
    })
}

/// A new file in the directory of `path`.
fn create_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    let mut attempt = 0;
    loop {
        let part = path.with_file_name(format!(".scaleRT-{}-{attempt}.part", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&part) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => attempt += 1,
            outcome => return outcome.map(|file| (part, file)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let directory = std::env::temp_dir().join(format!("scalert-replace-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let path = directory.join("file");
        replace(&path, |file| file.write_all(b"first")).unwrap();
        replace(&path, |file| file.write_all(b"second")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        let error = replace(&path, |file| {
            file.write_all(&[0; 1 << 17])?;
            Err(Error::from_raw_os_error(libc::ENOSPC))
        });
        assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(names(&directory), ["file"]);
        let code = |path: &Path| replace(path, |_| Ok(())).unwrap_err().raw_os_error();
        assert_eq!(code(&directory), Some(libc::EISDIR));
        assert_eq!(code(&directory.join("none/file")), Some(libc::ENOENT));
        assert_eq!(code(Path::new("")), Some(libc::ENOENT));
        assert_eq!(code(Path::new("/dev/null")), Some(libc::EINVAL));
        assert_eq!(names(&directory), ["file"]);
        fs::remove_dir_all(&directory).unwrap();
    }
}
