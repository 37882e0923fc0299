/* What safe Rust cannot try: native code inside the worker, as a guest that broke out would have it.
 *
 * Loaded before the program; it takes the place of one harmless C function (getppid), through which the program hands
 * control over: 0 says that the attempt named by the last argument succeeded, another number is the error. It
 * empties the environment first, since that is what a worker must start with. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *name;
static const char *folder;
static pid_t gate, neighbour;
static unsigned long limit;

__attribute__((constructor)) static void arrive(int argc, char **argv) {
    /* program MODE NAME GATE NEIGHBOUR FOLDER LIMIT ... */
    if (argc > 6) {
        name = argv[2];
        gate = atoi(argv[3]);
        neighbour = atoi(argv[4]);
        folder = argv[5];
        limit = strtoul(argv[6], NULL, 10);
    }
    clearenv();
}

static long ended(pid_t child) {
    if (child == 0) syscall(SYS_exit_group, 0);
    if (child > 0) syscall(SYS_wait4, child, NULL, 0, NULL);
    return child;
}

static long traced(void) {
    long rc = ptrace(PTRACE_SEIZE, neighbour, NULL, NULL);
    if (rc == 0) {
        ptrace(PTRACE_INTERRUPT, neighbour, NULL, NULL);
        waitpid(neighbour, NULL, __WALL);
        ptrace(PTRACE_DETACH, neighbour, NULL, NULL);
    }
    return rc;
}

static long peeked(int write) {
    /* Its first page that can be written; a made-up address where that cannot be found out. Written is what was read. */
    char path[64], line[256], bytes[8];
    unsigned long at = 4096;
    snprintf(path, sizeof path, "/proc/%d/maps", neighbour);
    FILE *maps = fopen(path, "r");
    while (maps && fgets(line, sizeof line, maps))
        if (strstr(line, " rw-p ")) {
            at = strtoul(line, NULL, 16);
            break;
        }
    struct iovec mine = {bytes, sizeof bytes}, theirs = {(void *)at, sizeof bytes};
    if (!write) return syscall(SYS_process_vm_readv, neighbour, &mine, 1, &theirs, 1, 0);
    if (maps && syscall(SYS_process_vm_readv, neighbour, &mine, 1, &theirs, 1, 0) < 0) return -1;
    return syscall(SYS_process_vm_writev, neighbour, &mine, 1, &theirs, 1, 0);
}

static long mapped(int prot, int flags, unsigned long bytes) {
    void *at = mmap(NULL, bytes, prot, flags | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return -1;
    if (bytes < 1 << 20) memset(at, 0, 1);
    return munmap(at, bytes);
}

static long code_by_mprotect(void) {
    char *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return -1;
#if defined(__x86_64__)
    *at = (char)0xc3;
#endif
    if (mprotect(at, 4096, PROT_READ | PROT_EXEC)) return -1;
#if defined(__x86_64__)
    ((void (*)(void))at)();
#endif
    return 0;
}

static long reservation_made_writable(void) {
    char *at = mmap(NULL, limit, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return -1;
    long rc = mprotect(at, limit, PROT_READ | PROT_WRITE);
    int why = errno;
    munmap(at, limit);
    errno = why;
    return rc;
}

static long fexecved(void) {
    char *words[] = {"sh", "-c", "echo '{\"Escaped\":\"a file without a name\"}'", NULL}, *none[] = {NULL};
    int fd = (int)syscall(SYS_openat, AT_FDCWD, "/bin/sh", O_RDONLY);
    return syscall(SYS_execveat, fd < 0 ? 0 : fd, "", words, none, AT_EMPTY_PATH);
}

static long mounted(void) {
    long rc = mount("none", folder, "tmpfs", 0, NULL);
    if (rc == 0) umount2(folder, MNT_DETACH);
    return rc;
}

static long filtered(void) {
    struct sock_filter pass = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {1, &pass};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

static long raised(int resource, pid_t of) {
    struct rlimit now, more;
    if (syscall(SYS_prlimit64, of, resource, NULL, &now)) return -1;
    more = now;
    return syscall(SYS_prlimit64, of, resource, &more, NULL);
}

static long foreign_machine_code(void) {
#if defined(__x86_64__)
    long rc;
    __asm__ volatile("int $0x80" : "=a"(rc) : "a"(20) : "memory"); /* getpid of 32-bit programs */
    if (rc < 0) errno = (int)-rc;
    return rc < 0 ? -1 : 0;
#else
    errno = ENOSYS;
    return -1;
#endif
}

static long other_numbers(void) {
#if defined(__x86_64__)
    return syscall(0x40000000 | SYS_getppid); /* x32 */
#else
    errno = ENOSYS;
    return -1;
#endif
}

static long attempt(void) {
    union bpf_attr map = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
    struct perf_event_attr event = {.type = PERF_TYPE_SOFTWARE, .size = sizeof event, .config = PERF_COUNT_SW_CPU_CLOCK};
    char ring[128] = {0};
    siginfo_t signal = {.si_signo = SIGURG, .si_code = SI_QUEUE};
    struct { char bytes[88]; } fork3 = {{0}};
    struct { unsigned bytes; int type; char handle[128]; } handle = {128, 0, {0}};
    int where;
#define IS(text) if (!strcmp(name, text))
    IS("ptrace a neighbour") return traced();
    IS("read a neighbour's memory") return peeked(0);
    IS("write a neighbour's memory") return peeked(1);
    IS("signal a neighbour's thread") return syscall(SYS_tgkill, neighbour, neighbour, SIGURG);
    IS("signal a thread by number") return syscall(SYS_tkill, neighbour, SIGURG);
    IS("queue a signal") return syscall(SYS_rt_sigqueueinfo, neighbour, SIGURG, &signal);
    IS("fork") return ended((pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
    IS("fork by clone3") { memcpy(fork3.bytes + 32, &(long){SIGCHLD}, 8); return ended((pid_t)syscall(SYS_clone3, &fork3, 88)); }
#if defined(__x86_64__)
    IS("fork by fork") return ended((pid_t)syscall(SYS_fork));
#endif
    IS("clone into a namespace") return ended((pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
    IS("execveat") return fexecved();
    IS("io_uring") return syscall(SYS_io_uring_setup, 4, ring);
    IS("unshare a user namespace") return syscall(SYS_unshare, CLONE_NEWUSER);
    IS("mount") return mounted();
    IS("chroot") return syscall(SYS_chroot, "/");
    IS("bpf") return syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof map);
    IS("keyctl") return syscall(SYS_keyctl, 0, -3, 1); /* the process's keyring, made if need be */
    IS("add a key") return syscall(SYS_add_key, "user", "weir-drill", "x", 1, -2);
    IS("userfaultfd") return syscall(SYS_userfaultfd, O_CLOEXEC | 1);
    IS("perf events") return syscall(SYS_perf_event_open, &event, 0, -1, -1, 0);
    IS("open a file by handle") {
        if (syscall(SYS_name_to_handle_at, AT_FDCWD, folder, &handle, &where, 0)) return -1;
        int base = open(folder, O_RDONLY | O_DIRECTORY);
        return syscall(SYS_open_by_handle_at, base, &handle, O_RDONLY);
    }
    IS("make memory executable") return code_by_mprotect();
    IS("map executable memory") return mapped(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE, 4096);
    IS("map shared memory beyond the limit") return mapped(PROT_READ | PROT_WRITE, MAP_SHARED, limit);
    IS("map a growing stack") return mapped(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_GROWSDOWN, limit);
    IS("make a reservation beyond the limit writable") return reservation_made_writable();
    IS("share memory") return syscall(SYS_shmget, 0, limit, 0600 | 01000);
    IS("a filter of its own") return filtered();
    IS("be dumpable again") return prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    IS("outlive the gate") return prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0);
    IS("set a limit anew") return raised(RLIMIT_NOFILE, 0);
    IS("set a neighbour's limit") return raised(RLIMIT_NOFILE, neighbour);
    IS("system calls of 32-bit programs") return foreign_machine_code();
    IS("system calls by other numbers") return other_numbers();
    IS("change the personality") return syscall(SYS_personality, 0x0400000);
    IS("make a pair of sockets") { int pair[2]; return syscall(SYS_socketpair, 1, 1, 0, pair); }
    IS("push input to a terminal") { char key = 'x'; return syscall(SYS_ioctl, open("/dev/ptmx", O_RDWR), 0x5412, &key); }
    errno = EINVAL;
    return -1;
}

pid_t getppid(void) {
    if (!name) return (pid_t)syscall(SYS_getppid);
    return attempt() < 0 ? errno : 0;
}
