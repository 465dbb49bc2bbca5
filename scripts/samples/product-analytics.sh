# Part of ../samples.sh.
cd "$folder"
SA=$(dodil auth service-account create product-analytics-sa -o json)
SA_ID=$(echo "$SA" | jq -r '.data.id // .id')
SA_SECRET=$(echo "$SA" | jq -r '.data.secret // .secret')
action "grant-role of K3" dodil auth service-account grant-role "$SA_ID" k3-authorization-service k3.admin
action "deploy the backend" dodil ignite app deploy product-analytics --code ./product-analytics --runtime deno --tier small \
    --allow-unauthenticated \
    --env DODIL_SA_ID="$SA_ID" --env DODIL_SA_SECRET="$SA_SECRET" \
    --env ADMIN_KEYS="ak_choose_a_secret" --env PUBLIC_KEYS="pk_site_widget" \
    --env PUBLIC_FUNNEL="signup,activated,checkout_completed" "${elsewhere[@]}"
backend=$(url product-analytics)
preflight "$backend"
keyed() { post "$backend" "$(jq -c --arg key "$1" '. + {key: $key}' <<<"$2")"; }
events='{"action":"track_batch","events":[{"name":"signup","user_id":"u1","ts":"2026-07-01T10:00:00Z"},{"name":"activated","user_id":"u1","ts":"2026-07-01T10:05:00Z"},{"name":"signup","user_id":"u2","ts":"2026-07-01T11:00:00Z"}]}'
answers "public action: track_batch" '.result.ingested == 3' keyed pk_site_widget "$events"
readable "a page of another origin reads the answer" "$backend" '{"action":"public_overview","key":"pk_site_widget"}'
answers "public action: public_overview" '.result.totals.users == 2' keyed pk_site_widget '{"action":"public_overview","days":14}'
answers "public action: identify" '.ok' keyed pk_site_widget '{"action":"identify","user_id":"u1","plan":"pro","country":"US"}'
answers "an admin action is refused without a key" '.code == 401' post "$backend" '{"action":"top_events"}'
answers "admin action: funnel" '[.result.steps[].users] == [2, 1, 0]' \
    keyed ak_choose_a_secret '{"action":"funnel","steps":["signup","activated","checkout_completed"]}'
answers "admin action: retention" '.result.cohorts[0].cohort_size == 2' keyed ak_choose_a_secret '{"action":"retention","offsets":[0,1,7]}'
answers "admin action: register_event" '.ok' \
    keyed ak_choose_a_secret '{"action":"register_event","name":"checkout_completed","description":"a purchase was paid"}'
answers "public action: catalog_search" '.result.results | length > 0' keyed pk_site_widget '{"action":"catalog_search","query":"purchase paid"}'
answers "admin action: export as CSV" '.result.csv | startswith("name,")' keyed ak_choose_a_secret '{"action":"export","report":"top_events"}'
# The README invokes without a key, which this deployment demands.
answers "dodil ignite invoke" '.ok' dodil ignite invoke product-analytics --payload \
    '{"action":"track","name":"checkout_completed","user_id":"u1","props":{"amount":129,"currency":"USD","plan":"pro"},"key":"pk_site_widget"}'
answers "dodil ignite invoke, admin action: breakdown" '.result.breakdown[0].value == "pro"' dodil ignite invoke product-analytics --payload \
    '{"action":"breakdown","event":"checkout_completed","property":"plan","key":"ak_choose_a_secret"}'

cd "$folder/product-analytics"
action "deploy the dashboard" dodil ignite app deploy product-analytics-ui --code ./web --dockerfile-path Dockerfile \
    --allow-unauthenticated --tier small --env APP_URL="$(url product-analytics)" --env PUBLIC_KEY=pk_site_widget
ui=$(url product-analytics-ui)
page "the dashboard's page" "$ui" '<title>'
browse "a browser shows the dashboard's page, which asks the backend at another origin" "$here/samples/dashboard.mjs" \
    PAGE="$ui?app=$backend&pk=pk_site_widget&ak=ak_choose_a_secret"
action "dashboard → backend: a click is tracked and leads on" bash -c \
    'curl -sS -o /dev/null -w "%{redirect_url}" --connect-to "::$1" "$2" | grep -q "^https://acme.example/"' - \
    "$listener" "${ui}click?e=email_click&u=u2&to=https://acme.example/"
TRIES=10 answers "the click arrived" '[.result.top_events[].name] | index("email_click")' \
    keyed ak_choose_a_secret '{"action":"top_events"}'
action "dashboard → backend: the pixel" ask -f -o /dev/null "${ui}px.gif?e=email_open&u=u1"
TRIES=10 answers "the opened mail arrived" '[.result.top_events[].name] | index("email_open")' \
    keyed ak_choose_a_secret '{"action":"top_events"}'
for app in product-analytics product-analytics-ui; do
    action "app delete $app" dodil ignite app delete $app </dev/null
done
