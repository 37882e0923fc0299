//! Which system calls a locked worker may make: three lists, and nothing that is not on one.
//!
//! A call that is on no list is answered with "not permitted". A call that only an intruder makes ends the
//! process at once, so that the gate sees the signal and not a silence. A worker without granted folders has no
//! call that takes a path: it cannot even ask whether a file exists. This file must hold no policy and no path.

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Is, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

/// How much of the file system the calls may touch; Landlock says where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Paths {
    /// None: no call takes a path.
    None,
    /// Open to read, list and look up.
    Read,
    /// Also create, change, rename and remove.
    Write,
}

/// Computing, threads of this process, time, and talking over descriptors that are already open.
const ALWAYS: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_membarrier,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    // Its own page map, opened before the lock; without a folder nothing else that is open has a position.
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
    // Answered with "no such call" by a filter of its own: the C library then uses `clone`, whose flags can be read.
    libc::SYS_clone3,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];

/// With a granted folder.
const READING: &[c_long] = &[
    libc::SYS_fadvise64,
    libc::SYS_fstat,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_preadv,
    libc::SYS_readlinkat,
    libc::SYS_statx,
];

/// With a folder that is granted to write.
const WRITING: &[c_long] = &[
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_linkat,
    libc::SYS_mkdirat,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    RENAMEAT,
    libc::SYS_renameat2,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
];

#[cfg(target_arch = "x86_64")]
const RENAMEAT: c_long = libc::SYS_renameat;
/// Not named by the C library's list for this machine, and used all the same.
#[cfg(not(target_arch = "x86_64"))]
const RENAMEAT: c_long = 38;

/// What no guest, engine or library here ever asks for: whoever does has broken out, and the process ends.
const HOSTILE: &[c_long] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_add_key,
    libc::SYS_bind,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_connect,
    libc::SYS_delete_module,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_kill,
    libc::SYS_listen,
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_setns,
    libc::SYS_shmat,
    libc::SYS_shmget,
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_swapon,
    libc::SYS_tkill,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
];

/// The flags with which glibc and musl start a thread; every other `clone` makes a process or a namespace.
const THREAD: [u64; 2] = [0x003d_0f00, 0x007d_0f00];

/// `MADV_` values: give back, keep ready, huge pages or not, keep out of dumps, map now what will be
/// read, guard pages on and off.
const ADVICE: [u64; 9] = [3, 4, 8, 14, 15, 16, 22, 102, 103];

/// Bits that a mapping may have beside "private": fixed, anonymous, not reserved, a stack, fixed without replacing.
/// Not "shared" and not "grows down": neither counts against the memory limit.
const MAPPING: u64 = (libc::MAP_FIXED
    | libc::MAP_ANONYMOUS
    | libc::MAP_NORESERVE
    | libc::MAP_STACK
    | libc::MAP_FIXED_NOREPLACE
    | libc::MAP_PRIVATE) as u64;

/// Readable and writable; never executable: the guest's code is in place before the lock.
const DATA: u64 = (libc::PROT_READ | libc::PROT_WRITE) as u64;

/// A call's number and the arguments it may have; no rules: any.
type Row = (i64, Vec<SeccompRule>);

/// The filters in the order in which they are to be put on: the last one closes the door to further ones.
pub(crate) fn filters(paths: Paths, own: u32) -> Result<[BpfProgram; 3], BackendError> {
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    Ok([
        program(vec![(libc::SYS_clone3, Vec::new())], SeccompAction::Allow, missing)?,
        program(hostile(own)?, SeccompAction::Allow, SeccompAction::KillProcess)?,
        program(permitted(paths, own)?, refused, SeccompAction::Allow)?,
    ])
}

/// How many calls are permitted, and how many end the process.
pub(crate) fn counts(paths: Paths, own: u32) -> Result<(usize, usize), BackendError> {
    // `clone3` is on the list only to be answered that there is no such call.
    Ok((permitted(paths, own)?.len() - 1, HOSTILE.len()))
}

fn program(rows: Vec<Row>, other: SeccompAction, listed: SeccompAction) -> Result<BpfProgram, BackendError> {
    let machine = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rows.into_iter().collect(), other, listed, machine)?.try_into()
}

fn permitted(paths: Paths, own: u32) -> Result<Vec<Row>, BackendError> {
    let mut rows: Vec<Row> = ALWAYS.iter().map(|call| (number(*call), Vec::new())).collect();
    rows.extend([
        (number(libc::SYS_clone), any_of(0, &THREAD)?),
        (number(libc::SYS_fcntl), any_of(1, &[1, 2, 3, 4, 1030])?), // F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC
        (number(libc::SYS_ioctl), any_of(1, &[libc::FIONBIO])?),
        (number(libc::SYS_madvise), any_of(2, &ADVICE)?),
        (number(libc::SYS_mmap), vec![mapping()?]),
        (number(libc::SYS_mprotect), vec![SeccompRule::new(vec![within(2, DATA, 0)?])?]),
        (number(libc::SYS_prctl), any_of(0, &[15])?), // PR_SET_NAME
        (number(libc::SYS_tgkill), any_of(0, &[u64::from(own)])?),
    ]);
    if paths >= Paths::Read {
        rows.extend(READING.iter().map(|call| (number(*call), Vec::new())));
    }
    if paths >= Paths::Write {
        rows.extend(WRITING.iter().map(|call| (number(*call), Vec::new())));
        // Times of an open file, not of a path: Landlock does not guard these.
        let open_file = SeccompCondition::new(1, Width::Qword, Is::Eq, 0)?;
        rows.push((number(libc::SYS_utimensat), vec![SeccompRule::new(vec![open_file])?]));
    }
    Ok(rows)
}

fn hostile(own: u32) -> Result<Vec<Row>, BackendError> {
    let mut rows: Vec<Row> = HOSTILE.iter().map(|call| (number(*call), Vec::new())).collect();
    let not = |arg, values: &[u64]| {
        let conditions = values.iter().map(|value| SeccompCondition::new(arg, Width::Dword, Is::Ne, *value));
        SeccompRule::new(conditions.collect::<Result<_, _>>()?)
    };
    rows.push((number(libc::SYS_clone), vec![not(0, &THREAD)?]));
    rows.push((number(libc::SYS_tgkill), vec![not(0, &[u64::from(own)])?]));
    Ok(rows)
}

/// Private data and nothing else.
fn mapping() -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![within(2, DATA, 0)?, within(3, MAPPING & !MAP_PRIVATE, MAP_PRIVATE)?])
}

const MAP_PRIVATE: u64 = libc::MAP_PRIVATE as u64;

/// No bit outside `free`, apart from those of `set`, which must be there.
fn within(arg: u8, free: u64, set: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(arg, Width::Dword, Is::MaskedEq(!free & u64::from(u32::MAX)), set)
}

fn any_of(arg: u8, values: &[u64]) -> Result<Vec<SeccompRule>, BackendError> {
    let rule = |value| SeccompRule::new(vec![SeccompCondition::new(arg, Width::Dword, Is::Eq, value)?]);
    values.iter().copied().map(rule).collect()
}

/// Numbers of calls are `long`, which is 64 bits wide on every machine that the filter knows.
fn number(call: c_long) -> i64 {
    call
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_lists_name_each_call_once_and_nothing_twice() {
        let all: Vec<_> = [ALWAYS, READING, WRITING, HOSTILE].concat();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn without_folders_no_call_takes_a_path() {
        let none: BTreeSet<i64> = permitted(Paths::None, 1).unwrap().into_iter().map(|(call, _)| call).collect();
        for call in [libc::SYS_openat, libc::SYS_openat2, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_readlinkat] {
            assert!(!none.contains(&call), "{call}");
        }
        let (fewest, read, write) = (counts(Paths::None, 1), counts(Paths::Read, 1), counts(Paths::Write, 1));
        assert!(fewest.unwrap() < read.unwrap() && counts(Paths::Read, 1).unwrap() < write.unwrap());
    }

    #[test]
    fn the_filters_build_on_this_machine() {
        for paths in [Paths::None, Paths::Read, Paths::Write] {
            assert!(filters(paths, 7).unwrap().iter().all(|program| program.len() > 4), "{paths:?}");
        }
    }
}
