//! The memory of a process.

/// Has the system give memory in pages of 4 KiB alone. Where it gives pages of 2 MiB, each part of the allocator that is
/// touched for a few bytes holds one: an idle process is then larger by half. Called before anything else.
pub fn use_small_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        // Logs have not started, and it works all the same.
        eprintln!("memory is given in pages as large as the system likes: {error}");
    }
}
