# The peers of the proxy and stream parts: nginx and haproxy before one container, tuned for the
# measurement and with as many workers as this machine has cores, like `ignite`. The comparison is
# fair because they forward what the app URL forwards: the host and all headers of the client, over
# kept connections, with no log per request.

# Frees and prints a port of the loopback.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    printf '%s' "$port"
}

# The address of an app's replica: NAME.
replica_of() {
    local address
    for _ in $(seq 100); do
        address=$(api GET "/v1/ignite/app/bench/$1/replicas" | field address)
        if [ -n "$address" ]; then
            printf '%s' "$address"
            return
        fi
        sleep 0.1
    done
    die "the app $1 has no replica"
}

# Waits until something listens on this port of the loopback.
await_port() {
    for _ in $(seq 100); do
        (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return
        sleep 0.05
    done
    die "nothing listens on port $1: $(tail -n 5 "$work"/*.err 2>/dev/null)"
}

# nginx before ADDRESS; sets nginx (its pid) and nginx_at.
start_nginx() {
    local port dir=$work/nginx.d.d
    port=$(free_port)
    mkdir -p "$dir"
    cat >"$dir/nginx.conf" <<CONF
daemon off;
worker_processes ${WORKERS:-$(nproc)};
pid $dir/pid;
error_log stderr error;
events { worker_connections 16384; }
http {
    access_log off;
    tcp_nodelay on;
    # The defaults end a connection after a thousand requests, which a load tool sees as an error.
    keepalive_requests 100000000;
    client_body_temp_path $dir/body;
    proxy_temp_path $dir/proxy;
    fastcgi_temp_path $dir/fastcgi;
    uwsgi_temp_path $dir/uwsgi;
    scgi_temp_path $dir/scgi;
    client_max_body_size 0;
    map \$http_upgrade \$hop {
        default upgrade;
        '' '';
    }
    upstream app {
        server $1;
        keepalive 512;
        keepalive_requests 100000000;
    }
    server {
        listen 127.0.0.1:$port backlog=1024;
        location / {
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection \$hop;
            proxy_set_header Upgrade \$http_upgrade;
            proxy_set_header Host \$http_host;
            ${NGINX_LOCATION:-}
        }
    }
}
CONF
    nginx -p "$dir" -c "$dir/nginx.conf" 2>"$work/nginx.err" &
    nginx=$! nginx_at=127.0.0.1:$port
    background+=("$nginx")
    await_port "$port"
}

# haproxy before ADDRESS; sets haproxy (its pid) and haproxy_at.
start_haproxy() {
    local port
    port=$(free_port)
    cat >"$work/haproxy.cfg" <<CONF
global
    nbthread ${WORKERS:-$(nproc)}
    maxconn 8192
defaults
    mode http
    http-reuse always
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen app
    bind 127.0.0.1:$port backlog 1024
    server app $1
CONF
    haproxy -db -f "$work/haproxy.cfg" 2>"$work/haproxy.err" &
    haproxy=$! haproxy_at=127.0.0.1:$port
    background+=("$haproxy")
    await_port "$port"
}

# Microseconds of CPU that a process and its children have used, all their threads included.
cpu_of() {
    local pid ticks=0 sum=0
    for pid in "$1" $(cat "/proc/$1/task/$1/children"); do
        # The name in parentheses may have blanks; the numbers come behind it.
        ticks=$(sed 's/.*) //' "/proc/$pid/stat" | awk '{ print $12 + $13 }')
        sum=$((sum + ticks))
    done
    printf '%s' $((sum * 1000000 / $(getconf CLK_TCK)))
}
