# Part of ../samples.sh.
cd "$folder/research-agent"
SA=$(dodil auth service-account create atlas -o json)
SA_ID=$(jq -r .id <<<"$SA") SA_SECRET=$(jq -r .secret <<<"$SA")
# From a clone beside it, since the README's URL has another name by now.
git clone -q --bare . "$work/research-agent.git"
action "deploy from git" dodil ignite app deploy "$ORG:research-agent" \
    --git-url "file://$work/research-agent.git" --git-ref main \
    --git-sub-path ignite-research-agent \
    --dockerfile-path Dockerfile \
    --tier medium --description "Personal research agent with K3 memory + arXiv" \
    --env DODIL_SA_ID="$SA_ID" --env DODIL_SA_SECRET="$SA_SECRET" \
    --follow "${elsewhere[@]}"
agent=$(url research-agent)
answers "dodil ignite invoke: a question" '.reply | length > 0' dodil ignite invoke "$ORG:research-agent" \
    -p '{"message":"In one sentence, what is MoE?"}'
answers "dodil ignite invoke: save_memory" '.tools_used[0].result | test("Saved memory")' dodil ignite invoke "$ORG:research-agent" \
    -p '{"message":"Remember my project is a benchmark called Bench, due in July."}'
answers "dodil ignite invoke: search_memory" '.tools_used[0].result | test("Bench")' dodil ignite invoke "$ORG:research-agent" \
    -p '{"message":"What do you remember about my project benchmark?"}'
answers "its URL refuses without a token" '.code == 16' post "$agent" '{"message":"hello"}'
token=$(curl -sS -d grant_type=client_credentials -d client_id="$SA_ID" -d client_secret="$SA_SECRET" \
    "http://$http/realms/dodil/protocol/openid-connect/token" | jq -r .access_token)
answers "a session kept in the container: chat/save" '.result | test("Saved memory")' \
    post "${agent}chat/save" '{"session_id":"default"}' -H "Authorization: Bearer $token"
action "its page, with a token" bash -c \
    'curl -fsS --connect-to "::$1" -H "Authorization: Bearer $2" "$3" | grep -q "<title>"' - "$listener" "$token" "$agent"
# The cloud answers no preflight of an app that is not anonymous, and neither does this.
action "no preflight is answered, since it is not anonymous" bash -c \
    '[ "$(curl -sS -o /dev/null -w "%{http_code}" --connect-to "::$1" -X OPTIONS "$2" -H "Origin: https://page.example" -H "Access-Control-Request-Method: POST")" = 401 ]' \
    - "$listener" "$agent"

# The page's server. Without a registry of Node's packages, the plugin alone runs, in a server of its own.
[ "$encrypted" = yes ] && scheme=https || scheme=http
export NODE_EXTRA_CA_CERTS="$IGNITE_DATA_DIR/tls/ca.pem" DODIL_OIDC_URL="http://$http/realms/dodil/protocol/openid-connect/token"
cp -r ignite-research-agent-ui "$work/ui"
# npm may end well without having installed anything.
(cd "$work/ui" && timeout 300 npm install --no-audit --no-fund) >"$work/npm" 2>&1 || true
if [ -x "$work/ui/node_modules/.bin/vite" ]; then
    (cd "$work/ui" && exec npm run dev) >"$work/dev" 2>&1 &
else
    echo "  stand-in: Vite is samples/dev_server.mjs, since npm cannot install it"
    "$node" "$here/samples/dev_server.mjs" "$work/ui/server/ignite-api.js" 5174 >"$work/dev" 2>&1 &
fi
pids+=($!)
ui=http://127.0.0.1:5174
for _ in $(seq 300); do curl -fsS -o /dev/null "$ui/api/status" 2>/dev/null && break || sleep 0.1; done
local_post() { curl -sS -X POST "$1" -H 'content-type: application/json' -d "$2"; }
answers "UI proxy: connect with the account" ".connected and .org.name == \"$ORG\"" \
    local_post "$ui/api/connect" "{\"saId\":\"$SA_ID\",\"saSecret\":\"$SA_SECRET\"}"
answers "UI proxy → agent: invoke, recalling what was saved" \
    '.ok and (.json.tools_used[0].result | test("Bench"))' local_post "$ui/api/invoke" \
    "{\"appId\":\"$ORG:research-agent\",\"payload\":{\"message\":\"What do you remember about my project benchmark?\"},\"url\":\"$scheme://$listener/_app/$ORG/research-agent/\"}"
answers "UI proxy: connect with a wrong secret" '.connected == false' \
    local_post "$ui/api/connect" "{\"saId\":\"$SA_ID\",\"saSecret\":\"igs_wrong\"}"
action "app delete research-agent" dodil ignite app delete research-agent </dev/null
unset DODIL_OIDC_URL NODE_EXTRA_CA_CERTS
