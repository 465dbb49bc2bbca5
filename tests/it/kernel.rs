//! Which system calls apps may make beyond those they need.
#![cfg(target_arch = "x86_64")]

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    app::{App, read},
    ignite::Ignite,
};

const IO_URING_SETUP: u32 = 425;
const SOCKET: u32 = 41;
const GETPID: u32 = 39;
const WRITE: u32 = 1;
const EXIT_GROUP: u32 = 231;
const UNSHARE: u32 = 272;
const AF_VSOCK: u32 = 40;
const AF_INET: u32 = 2;
const SOCK_STREAM: u32 = 1;
const EPERM: i64 = 1;

/// The address of programs in memory; zeros follow them.
const BASE: u32 = 0x40_0000;
const ZEROS: u32 = BASE + 0x800;
/// The address of the table of errors, beyond the longest program.
const TABLE: u32 = BASE + 0x1_0000;
/// More system calls than exist.
const CALLS: u32 = 470;
/// Calls that end the process, wait forever, create another process, or write to stdout; 335 and
/// 336 are traps of the kernel itself.
const NOT_TRIED: [u32; 17] = [
    1, 14, 15, 32, 33, 34, 37, 56, 57, 58, 60, 130, 219, 231, 335, 336, 435,
];

/// A program of one segment, with some memory behind it.
fn elf(code: &[u8]) -> Vec<u8> {
    const HEAD: u64 = 64 + 56;
    let base = u64::from(BASE);
    let size = HEAD + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([2, 0, 0x3e, 0, 1, 0, 0, 0]);
    elf.extend((base + HEAD).to_le_bytes());
    elf.extend(64u64.to_le_bytes());
    elf.extend([0; 12]);
    elf.extend([64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 7, 0, 0, 0]);
    for field in [0, base, base, size, 0x2_0000, 0x1000] {
        elf.extend(field.to_le_bytes());
    }
    elf.extend(code);
    elf
}

/// `mov register, value` for the 32 bits of eax (0xb8), edi (0xbf), esi (0xbe) or edx (0xba).
fn mov(code: &mut Vec<u8>, register: u8, value: u32) {
    code.push(register);
    code.extend(value.to_le_bytes());
}

/// A program that makes one call, whose second argument points to zeros if it is `None`, and ends
/// with the error's number, or 0 without an error.
fn program(call: u32, first: u32, second: Option<u32>) -> Vec<u8> {
    let mut code = Vec::new();
    mov(&mut code, 0xb8, call);
    mov(&mut code, 0xbf, first);
    mov(&mut code, 0xbe, second.unwrap_or(ZEROS));
    code.extend([
        0x31, 0xd2, // xor edx, edx
        0x0f, 0x05, // syscall
        0x31, 0xff, // xor edi, edi
        0x85, 0xc0, // test eax, eax
        0x79, 0x04, // jns over the next two
        0xf7, 0xd8, // neg eax
        0x89, 0xc7, // mov edi, eax
    ]);
    mov(&mut code, 0xb8, EXIT_GROUP);
    code.extend([0x0f, 0x05]);
    elf(&code)
}

/// A program that makes every call with invalid arguments, and writes the errors' numbers.
fn every_call() -> Vec<u8> {
    let mut code = Vec::new();
    for call in 0..CALLS {
        if NOT_TRIED.contains(&call) {
            continue;
        }
        mov(&mut code, 0xb8, call);
        // mov rdi, rsi, rdx, r10, r8 and r9, -1
        for register in [
            [0x48, 0xc7],
            [0x48, 0xc6],
            [0x48, 0xc2],
            [0x49, 0xc2],
            [0x49, 0xc0],
            [0x49, 0xc1],
        ] {
            code.extend([register[0], 0xc7, register[1], 0xff, 0xff, 0xff, 0xff]);
        }
        code.extend([
            0x0f, 0x05, // syscall
            0xf7, 0xd8, // neg eax
            0x78, 0x07, // js over the next, since there was no error
            0x88, 0x04, 0x25, // mov [table], al
        ]);
        code.extend((TABLE + call).to_le_bytes());
    }
    mov(&mut code, 0xb8, WRITE);
    mov(&mut code, 0xbf, 1);
    mov(&mut code, 0xbe, TABLE);
    mov(&mut code, 0xba, CALLS);
    code.extend([0x0f, 0x05]);
    mov(&mut code, 0xb8, EXIT_GROUP);
    code.extend([0x31, 0xff, 0x0f, 0x05]);
    elf(&code)
}

/// Runs a program in the app and returns its exit code and output.
async fn run(ignite: &Ignite, app: &App, program: Vec<u8>) -> (i64, Vec<u8>) {
    let request = app.request(ignite, Method::POST, "/run").body(program);
    let answer = request.send().await.expect("an answer");
    let (status, answer) = (answer.status, answer.text().await);
    assert_eq!(status, StatusCode::OK, "{answer}");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    let written = serde_json::from_value(answer["written"].clone()).expect("bytes");
    (answer["code"].as_i64().expect("an exit"), written)
}

async fn call(ignite: &Ignite, app: &App, program: Vec<u8>) -> i64 {
    run(ignite, app, program).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_get_neither_io_uring_nor_vsock_and_nothing_that_the_engine_refuses() {
    let private = tempfile::tempdir().expect("a directory");
    let profile = private.path().join("profile.json");
    let denied = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["getpid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 }],
    });
    std::fs::write(&profile, denied.to_string()).expect("written");
    let file = profile.to_str().expect("a path of text");
    let uring = || program(IO_URING_SETUP, 1, None);
    let vsock = || program(SOCKET, AF_VSOCK, Some(SOCK_STREAM));

    let data = tempfile::tempdir().expect("a directory");
    let ignite = Ignite::builder().data_dir(data.path()).start().await;
    let app = App::deploy(&ignite, "acme/a", Value::Null).await;
    let (code, of_engine) = run(&ignite, &app, every_call()).await;
    assert_eq!((code, of_engine.len()), (0, CALLS as usize));
    drop(ignite);

    let ignite = Ignite::builder()
        .data_dir(data.path())
        .args(["--seccomp", file])
        .start()
        .await;
    assert_eq!(call(&ignite, &app, program(GETPID, 0, None)).await, EPERM);
    // So that below only the profile can refuse them.
    assert_eq!(call(&ignite, &app, uring()).await, 0);
    assert_eq!(call(&ignite, &app, vsock()).await, 0);
    drop(ignite);

    // The published version stays, and its next container is a tenant's.
    let ignite = Ignite::builder()
        .data_dir(data.path())
        .args(["--trust", "tenants"])
        .start()
        .await;
    let (code, ours) = run(&ignite, &app, every_call()).await;
    assert_eq!((code, ours.len()), (0, CALLS as usize));
    let refused = |errors: &[u8], n: usize| i64::from(errors[n]) == EPERM;
    for n in 0..CALLS as usize {
        let is_looser = refused(&of_engine, n) && !refused(&ours, n);
        assert!(
            !is_looser,
            "the engine refuses call {n}, and here it is {}",
            ours[n]
        );
    }
    let number = |errors: &[u8]| (0..errors.len()).filter(|n| refused(errors, *n)).count();
    assert!(number(&ours) > 100, "{ours:?}");
    println!(
        "refused: {} of the engine, {} here",
        number(&of_engine),
        number(&ours)
    );
    for depth in ["absent", "prepared"] {
        assert_eq!(call(&ignite, &app, uring()).await, EPERM, "{depth}");
        assert_eq!(call(&ignite, &app, vsock()).await, EPERM, "{depth}");
        assert_eq!(
            call(&ignite, &app, program(UNSHARE, 1 << 28, None)).await,
            EPERM
        );
        assert_eq!(call(&ignite, &app, program(GETPID, 0, None)).await, 0);
        let tcp = program(SOCKET, AF_INET, Some(SOCK_STREAM));
        assert_eq!(call(&ignite, &app, tcp).await, 0);
        for step in ["idle", "wait"] {
            let output = ignite.cli(&["app", step, "acme:a", "--depth", depth]);
            assert!(output.status.success(), "{output:?}");
        }
    }
}

#[test]
fn a_profile_that_is_none_ends_the_start() {
    let private = tempfile::tempdir().expect("a directory");
    let file = private.path().join("profile.json");
    std::fs::write(&file, "{}").expect("written");
    let file = file.to_str().expect("a path of text");
    let output = Ignite::builder().args(["--seccomp", file]).start_and_fail();
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("defaultAction") && said.contains(file),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_processes_and_the_runtime_are_the_operators_choice() {
    let ignite = Ignite::builder()
        .args([
            "--set",
            "ulimits=nofile=100:200,core=0",
            "--runtime",
            "runc",
        ])
        .start()
        .await;
    let app = App::deploy(&ignite, "acme/a", Value::Null).await;
    let limits = read(&ignite, &app, "/proc/self/limits")
        .await
        .expect("them");
    let of = |name: &str| -> Vec<String> {
        let line = limits.lines().find(|line| line.starts_with(name));
        let values = line.map(|line| line[name.len()..].split_whitespace().take(2));
        values.expect("a line").map(str::to_owned).collect()
    };
    assert_eq!(of("Max open files"), ["100", "200"], "{limits}");
    assert_eq!(of("Max core file size"), ["0", "0"], "{limits}");
    drop(ignite);

    let output = Ignite::builder()
        .args(["--runtime", "runsc"])
        .start_and_fail();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("no runtime \"runsc\"; it has "), "{said}");
    assert!(said.contains("runc"), "{said}");
}
