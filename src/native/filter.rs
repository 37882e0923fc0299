//! Which calls into the kernel a program may not make: what no training program needs and many break-outs use.
//!
//! A list of what is denied and not of what is permitted, because the programs are anybody's: interpreters, compilers,
//! GPU libraries. What is denied is answered with "not permitted", so that a program that only tries goes on. This
//! file must hold no policy and no path.

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Is, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, sock_filter,
};

/// Never, with any argument.
const DENIED: &[c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_memfd_secret,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
];

/// Bits of `clone` that make a namespace.
const SPACES: [i32; 8] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    0x80, // CLONE_NEWTIME
];

/// Requests that put words into a terminal as if its user had typed them: TIOCSTI, TIOCLINUX.
const TYPING: [u64; 2] = [0x5412, 0x541c];

/// Set-user-id and set-group-id: a file with them, made by root's program, would be a way to root for others.
const POWERS: [i32; 2] = [0o4000, 0o2000];

/// Calls that set or take a mode, and which argument it is.
const MODES: &[(c_long, u8)] = &[
    (libc::SYS_fchmod, 1),
    (libc::SYS_fchmodat, 2),
    (FCHMODAT2, 2),
    (libc::SYS_mknodat, 2),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_creat, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mknod, 1),
];
/// The same number on every machine, and not in every C library's list.
const FCHMODAT2: c_long = 452;

/// Calls that make a file where their flags say so; the mode is the argument after the flags.
const MAKING: &[(c_long, u8)] = &[
    (libc::SYS_openat, 2),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 1),
];

/// `O_CREAT`, and the bit of `O_TMPFILE` that no other flag has.
const CREATES: [i32; 2] = [libc::O_CREAT, 0o20_000_000];

/// Kinds of sockets: within this machine, IPv4, IPv6. The network's own namespace says where they lead.
const FAMILIES: [u64; 3] = [libc::AF_UNIX as u64, libc::AF_INET as u64, libc::AF_INET6 as u64];

/// The first number of the calls of another convention on the same machine, which the lists here do not name.
const FOREIGN: u32 = 0x4000_0000;

/// The filters, in the order in which they are to be put on. With `routes` a program may also ask for the list of
/// network interfaces, as libraries that join several GPUs do.
pub(super) fn filters(routes: bool) -> Result<Vec<BpfProgram>, BackendError> {
    let refused = || SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let mut rows: Vec<Row> = DENIED.iter().map(|call| (number(*call), Vec::new())).collect();
    rows.push((number(libc::SYS_clone), SPACES.iter().map(|bit| has(0, *bit)).collect::<Result<_, _>>()?));
    rows.push((number(libc::SYS_ioctl), TYPING.iter().map(|request| is(1, *request)).collect::<Result<_, _>>()?));
    rows.push((number(libc::SYS_socket), sockets(routes)?));
    for (call, mode) in MODES {
        rows.push((number(*call), POWERS.iter().map(|bit| has(*mode, *bit)).collect::<Result<_, _>>()?));
    }
    for (call, flags) in MAKING {
        rows.push((number(*call), powerful(*flags)?));
    }
    Ok(vec![
        foreign(),
        // Libraries then use `clone` and `openat`, whose flags can be read.
        program(vec![(number(libc::SYS_clone3), Vec::new()), (number(libc::SYS_openat2), Vec::new())], missing)?,
        program(rows, refused())?,
    ])
}

type Row = (i64, Vec<SeccompRule>);

fn program(rows: Vec<Row>, listed: SeccompAction) -> Result<BpfProgram, BackendError> {
    let machine = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rows.into_iter().collect(), SeccompAction::Allow, listed, machine)?.try_into()
}

/// Denied: every family but these, and of the kernel's own (`AF_NETLINK`) all but its routes.
fn sockets(routes: bool) -> Result<Vec<SeccompRule>, BackendError> {
    let not = |arg, value| SeccompCondition::new(arg, Width::Dword, Is::Ne, value);
    let netlink = libc::AF_NETLINK as u64;
    let mut other: Vec<SeccompCondition> = FAMILIES.iter().map(|family| not(0, *family)).collect::<Result<_, _>>()?;
    if !routes {
        return Ok(vec![SeccompRule::new(other)?]);
    }
    other.push(not(0, netlink)?);
    let kernel = SeccompCondition::new(0, Width::Dword, Is::Eq, netlink)?;
    Ok(vec![SeccompRule::new(other)?, SeccompRule::new(vec![kernel, not(2, libc::NETLINK_ROUTE as u64)?])?])
}

fn has(arg: u8, bit: i32) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![set(arg, bit)?])
}

fn set(arg: u8, bit: i32) -> Result<SeccompCondition, BackendError> {
    let bit = u64::from(bit.unsigned_abs());
    SeccompCondition::new(arg, Width::Dword, Is::MaskedEq(bit), bit)
}

/// Denied: to make a file with a power.
fn powerful(flags: u8) -> Result<Vec<SeccompRule>, BackendError> {
    let pairs = CREATES.iter().flat_map(|creates| POWERS.iter().map(move |power| (*creates, *power)));
    pairs.map(|(creates, power)| SeccompRule::new(vec![set(flags, creates)?, set(flags + 1, power)?])).collect()
}

fn is(arg: u8, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(arg, Width::Dword, Is::Eq, value)?])
}

/// Calls of another convention do not exist: their numbers are beyond every number of the lists.
fn foreign() -> BpfProgram {
    let missing = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    let row = |code: u32, jt, jf, k| sock_filter { code: u16::try_from(code).unwrap_or_default(), jt, jf, k };
    vec![
        row(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        row(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, FOREIGN),
        row(libc::BPF_RET | libc::BPF_K, 0, 0, missing),
        row(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
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
    fn the_list_names_each_call_once_and_the_filters_build() {
        assert_eq!(DENIED.iter().collect::<BTreeSet<_>>().len(), DENIED.len());
        for routes in [false, true] {
            assert!(filters(routes).unwrap().iter().all(|program| program.len() >= 4));
        }
    }
}
