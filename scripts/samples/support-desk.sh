# Part of ../samples.sh.
cd "$folder/support-desk"

desk() {
    SA=$(dodil auth service-account create support-desk-sa -o json) \
        && SA_ID=$(jq -r '.serviceAccountId' <<<"$SA") && SA_SECRET=$(jq -r '.secret' <<<"$SA") \
        && [ -n "$SA_SECRET" ] && [ "$SA_SECRET" != null ]
}
if desk; then outcome "service-account create" yes; else outcome "service-account create" no "${SA:-}"; fi
action "grant-role of K3" dodil auth service-account grant-role "$SA_ID" k3-authorization-service k3.admin
action "grant-role of Ignite" \
    dodil auth service-account grant-role "$SA_ID" ignite-authorization-service ignite.model-user

ADMIN_KEY="ak_$(openssl rand -hex 12)" PUBLIC_KEY=pk_help_widget
sign_in=(--env AUTH_MODE=email --env SESSION_SECRET="$(openssl rand -hex 24)" --env SEND_MODE=test
    --env AGENT_DOMAINS=yourcompany.com)
backends() {
    action "deploy the public backend $1" dodil ignite app deploy support-desk-public --code . --runtime python \
        --tier small --allow-unauthenticated \
        --env DODIL_SA_ID="$SA_ID" --env DODIL_SA_SECRET="$SA_SECRET" \
        --env APP_ROLE=public --env PUBLIC_KEYS="$PUBLIC_KEY" "${elsewhere[@]}" "${@:2}"
    action "deploy the admin backend $1" dodil ignite app deploy support-desk-admin --code . --runtime python \
        --tier small --allow-unauthenticated \
        --env DODIL_SA_ID="$SA_ID" --env DODIL_SA_SECRET="$SA_SECRET" \
        --env APP_ROLE=admin --env ADMIN_KEYS="$ADMIN_KEY" "${elsewhere[@]}" "${@:2}"
}
backends ""
action "deploy the portal" dodil ignite app deploy support-desk-portal --code ./web/portal \
    --dockerfile-path Dockerfile --allow-unauthenticated --tier small --health-path /healthz \
    --env BACKEND_URL="$(url support-desk-public)" --env PUBLIC_KEY="$PUBLIC_KEY"
action "deploy the inbox" dodil ignite app deploy support-desk-inbox --code ./web/admin \
    --dockerfile-path Dockerfile --allow-unauthenticated --tier small --health-path /healthz \
    --env BACKEND_URL="$(url support-desk-admin)" --env ADMIN_KEY="$ADMIN_KEY"

public=$(url support-desk-public) admin=$(url support-desk-admin)
PORTAL=$(url support-desk-portal) INBOX=$(url support-desk-inbox)
preflight "$public"
readable "a page of another origin reads the answer" "$public" '{"action":"auth_config"}'
answers "public action: auth_config" '.ok' post "$public" "{\"action\":\"auth_config\",\"key\":\"$PUBLIC_KEY\"}"
answers "an admin action is not served by the public backend, even with the admin's key" \
    '.ok == false and (.error | test("not served by this deployment"))' \
    post "$public" "{\"action\":\"list_tickets\",\"key\":\"$ADMIN_KEY\"}"
answers "the admin backend refuses without a key" '.ok == false and .code == 401' \
    post "$admin" '{"action":"stats"}'
answers "admin action: stats" '.ok' post "$admin" "{\"action\":\"stats\",\"key\":\"$ADMIN_KEY\"}"

page "the portal's page" "$PORTAL" 'Help Center'
page "the inbox's page" "$INBOX" '<title>'
# Through the proxies: an app that calls an app.
answers "portal → public backend: submit_ticket" '.ok and .result.status == "new"' post "${PORTAL}api" \
    '{"action":"submit_ticket","subject":"Charged twice for an order","body":"Billed twice, please refund.","requester_email":"sam@acme.example","channel":"web"}'
ticket=$(field .result.ticket_id)
TRIES=20 answers "triage in the background, after the answer, seen through the inbox: get_ticket" \
    '.result.ticket.category == "billing"' post "${INBOX}api" "{\"action\":\"get_ticket\",\"ticket_id\":\"$ticket\"}"
answers "a status that is none is refused" '.result.error // .error | test("invalid status")' \
    post "${INBOX}api" "{\"action\":\"set_status\",\"ticket_id\":\"$ticket\",\"status\":\"escalated\"}"
answers "inbox → admin backend: add_kb" '.ok' post "${INBOX}api" \
    '{"action":"add_kb","title":"Refund policy","body":"Duplicate charges are refunded within 3 business days."}'
answers "portal → public backend: search_kb" '.result.results | length > 0' post "${PORTAL}api" \
    '{"action":"search_kb","query":"duplicate charges refunded"}'
answers "inbox: suggest_reply" '.result.draft_reply | length > 0' \
    post "${INBOX}api" "{\"action\":\"suggest_reply\",\"ticket_id\":\"$ticket\"}"
answers "the portal refuses an admin action" '.ok == false' post "${PORTAL}api" '{"action":"list_tickets"}'
answers "the portal's webhook for mail" '.ok' post "${PORTAL}inbound" \
    '{"subject":"A mail","text":"Hello","from":"kim@acme.example"}'

for agent in '{"action":"add_agent","kind":"human","email":"amal@desk.example","name":"Amal","role":"agent","skills":["billing"]}' \
    '{"action":"add_agent","kind":"ai","name":"KB Bot","skills":["how_to"]}' \
    '{"action":"upsert_rule","position":1,"on_event":"created","category":"how_to","assign_to":"kb-bot","allow_ai":true}' \
    '{"action":"upsert_rule","position":2,"on_event":"created","category":"billing","pool_skill":"billing"}'; do
    answers "inbox: $(jq -r '"\(.action) \(.kind // .category)"' <<<"$agent")" '.ok' post "${INBOX}api" "$agent"
done

backends "with sign-in by mail" "${sign_in[@]}"
answers "portal: request_code" '.ok' post "${PORTAL}api" '{"action":"request_code","email":"ui@acme.example"}'
code=$(field '.result.demo_code')
ask -o "$work/signed-in" -c "$work/cookies" -X POST "${PORTAL}api" -H 'content-type: application/json' \
    -d "{\"action\":\"verify_code\",\"email\":\"ui@acme.example\",\"code\":\"$code\"}"
answers "portal: verify_code keeps the session from the page" '.ok and (.result.session == null)' cat "$work/signed-in"
answers "portal: my_tickets with the cookie" '.ok' post "${PORTAL}api" '{"action":"my_tickets"}' -b "$work/cookies"
answers "portal: my_tickets without it" '.ok == false and .code == 401' post "${PORTAL}api" '{"action":"my_tickets"}'
answers "portal: a question for the agent that is a program" '.ok' post "${PORTAL}api" \
    '{"action":"submit_ticket","subject":"How do I get refunded?","body":"How do I see duplicate charges?","requester_email":"ui@acme.example"}'
ticket=$(field .result.ticket_id)
TRIES=20 answers "it answers from the knowledge base" '[.result.messages[].role] | index("agent")' \
    post "${INBOX}api" "{\"action\":\"get_ticket\",\"ticket_id\":\"$ticket\"}"
# Both to zero: one request wakes the one and then the other.
for app in support-desk-portal support-desk-public; do
    action "app idle $app" dodil ignite app idle $app --depth absent
    dodil ignite app wait $app --depth absent >/dev/null
done
answers "portal → public backend, both asleep" '.ok' post "${PORTAL}api" '{"action":"auth_config"}'
action "app logs" dodil ignite app logs "$ORG:support-desk-inbox"
browse "its own test in a browser (tests/ui_test.mjs)" tests/ui_test.mjs PORTAL_URL="${PORTAL%/}" INBOX_URL="${INBOX%/}"
for app in support-desk-public support-desk-admin support-desk-portal support-desk-inbox; do
    action "app delete $app" dodil ignite app delete $app </dev/null
done
action "service-account list" dodil auth service-account list
action "service-account delete" dodil auth service-account delete "$SA_ID"
