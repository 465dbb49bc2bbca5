# Part of ../samples.sh.
cd "$folder/ask-your-notes"
SA=$(dodil auth service-account create notes-sa -o json)
export DODIL_SA_ID DODIL_SA_SECRET
DODIL_SA_ID=$(jq -r .id <<<"$SA") DODIL_SA_SECRET=$(jq -r .secret <<<"$SA")
# The account's own rights do not matter to a client that finds it in its environment: it deploys as before.
action "grant-role of Ignite" dodil auth service-account grant-role "$DODIL_SA_ID" ignite-authorization-service ignite.model-user
action "deploy the backend, whose runtime its files say" dodil ignite app deploy ask-your-notes --code . --allow-unauthenticated --tier small \
    --env DODIL_SA_ID=$DODIL_SA_ID --env DODIL_SA_SECRET=$DODIL_SA_SECRET --env ADMIN_KEYS=ak_your_admin_key "${elsewhere[@]}"
action "deploy the console" dodil ignite app deploy ask-your-notes-ui --code ./web --dockerfile-path Dockerfile \
    --allow-unauthenticated --tier small --env BACKEND_URL="$(url ask-your-notes)"
backend=$(url ask-your-notes) ui=$(url ask-your-notes-ui)
preflight "$backend"
answers "public action: public_overview" '.ok' post "$backend" '{"action":"public_overview"}'
answers "an admin action is refused without a key" '.code == 401' post "$backend" '{"action":"put_note","title":"T","body":"B"}'
page "the console's page" "$ui" '<title>'
note() { post "${ui}api" "$(jq -c '. + {key: "ak_your_admin_key"}' <<<"$1")"; }
answers "console → backend, admin action: put_note" '.result.links == 1' \
    note '{"action":"put_note","title":"Gardens","body":"A garden of thoughts, see [[Seeds]].","tags":["garden"]}'
answers "console → backend, admin action: put_note" '.result.slug == "seeds"' \
    note '{"action":"put_note","title":"Seeds","body":"A seed becomes a garden."}'
answers "console → backend, public action: get_note" '.result | tostring | test("garden of thoughts")' \
    post "${ui}api" '{"action":"get_note","slug":"gardens"}'
answers "console → backend, public action: backlinks" '.result | tostring | test("Gardens")' post "${ui}api" '{"action":"backlinks","slug":"seeds"}'
answers "console → backend, public action: graph" '.ok' post "${ui}api" '{"action":"graph"}'
answers "console → backend, public action: search" '.result.mode == "semantic"' post "${ui}api" '{"action":"search","query":"garden of thoughts"}'
answers "console → backend, public action: ask" '.result.citations | length > 0' post "${ui}api" '{"action":"ask","query":"What is a garden of thoughts?"}'
answers "console → backend, admin action: export as CSV" '.result.csv | test("Gardens")' note '{"action":"export","format":"csv"}'
answers "console → backend, admin action: create_key" '.result.key | startswith("ak_")' note '{"action":"create_key","kind":"admin"}'
for app in ask-your-notes ask-your-notes-ui; do
    action "app delete $app" dodil ignite app delete $app </dev/null
done
unset DODIL_SA_ID DODIL_SA_SECRET
