//! What apps may ask of the kernel beyond what they need.
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
const UNSHARE: u32 = 272;
const AF_VSOCK: u32 = 40;
const AF_INET: u32 = 2;
const SOCK_STREAM: u32 = 1;
const EPERM: i64 = 1;

/// A program that makes one call, its second argument some zeros where it is `None`, and ends with
/// the error's number; 0 is that there was none.
fn program(call: u32, first: u32, second: Option<u32>) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEAD: u64 = 64 + 56;
    const ZEROS: u32 = 0x40_0800;
    let mut code = Vec::new();
    for (opcode, value) in [(0xb8, call), (0xbf, first), (0xbe, second.unwrap_or(ZEROS))] {
        // mov eax, call; mov edi, first; mov esi, second
        code.push(opcode);
        code.extend(value.to_le_bytes());
    }
    code.extend([
        0x31, 0xd2, // xor edx, edx
        0x0f, 0x05, // syscall
        0x31, 0xff, // xor edi, edi
        0x85, 0xc0, // test eax, eax
        0x79, 0x04, // jns over the next two
        0xf7, 0xd8, // neg eax
        0x89, 0xc7, // mov edi, eax
        0xb8, 0xe7, 0, 0, 0, // mov eax, exit_group
        0x0f, 0x05, // syscall
    ]);
    let size = HEAD + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([2, 0, 0x3e, 0, 1, 0, 0, 0]);
    elf.extend((BASE + HEAD).to_le_bytes());
    elf.extend(64u64.to_le_bytes());
    elf.extend([0; 12]);
    elf.extend([64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    // One segment that is all of it, with room for the zeros.
    elf.extend([1, 0, 0, 0, 7, 0, 0, 0]);
    for field in [0, BASE, BASE, size, 0x1000, 0x1000] {
        elf.extend(field.to_le_bytes());
    }
    elf.extend(code);
    elf
}

async fn call(ignite: &Ignite, app: &App, program: Vec<u8>) -> i64 {
    let request = app.request(ignite, Method::POST, "/run").body(program);
    let answer = request.send().await.expect("an answer");
    let (status, answer) = (answer.status, answer.text().await);
    assert_eq!(status, StatusCode::OK, "{answer}");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    answer["code"].as_i64().expect("an exit")
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_get_neither_io_uring_nor_vsock_and_an_operators_profile_holds_instead() {
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
    let ignite = Ignite::builder()
        .data_dir(data.path())
        .args(["--seccomp", file])
        .start()
        .await;
    let app = App::deploy(&ignite, "acme/a", Value::Null).await;
    assert_eq!(call(&ignite, &app, program(GETPID, 0, None)).await, EPERM);
    // What the kernel here has to say to them; the test is worth what this is not EPERM.
    let open = call(&ignite, &app, uring()).await;
    println!(
        "without a profile: io_uring_setup {open}, socket(AF_VSOCK) {}",
        call(&ignite, &app, vsock()).await
    );
    drop(ignite);

    // What was published stays, and its next container is a tenant's.
    let ignite = Ignite::builder()
        .data_dir(data.path())
        .args(["--trust", "tenants"])
        .start()
        .await;
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
