package render_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/render"
)

const twoSecrets = `envFrom: [{secretRef: {name: all}}, {configMapRef: {name: settings}}]
          env:
            - {name: A, valueFrom: {secretKeyRef: {name: token, key: token}}}
            - {name: B, valueFrom: {secretKeyRef: {name: maybe, key: absent, optional: true}}}`

func twoSecretsManifests() string {
	return device + app("app", twoSecrets) + secret("all", "first", "1") + secret("token", "token", "t") +
		configMap("settings", "key", "value") + app("other", "")
}

func TestKeepsTheLastGoodWorkload(t *testing.T) {
	t.Parallel()
	good := parse(t, twoSecretsManifests()).render(t, nil)
	changes := map[string]func(*store){
		"secret removed":       func(s *store) { delete(s.secrets, "default/all") },
		"keyed secret removed": func(s *store) { delete(s.secrets, "default/token") },
		"key removed":          func(s *store) { s.secrets["default/token"].StringData = map[string]string{"new": "x"} },
		"configmap removed":    func(s *store) { delete(s.configMaps, "default/settings") },
		"both removed": func(s *store) {
			delete(s.secrets, "default/all")
			delete(s.secrets, "default/token")
		},
		"spec broken": func(s *store) {
			s.workloads["default/app"].Spec.Pod.Spec.Raw = json.RawMessage(`{"containers": 1}`)
		},
		"spec removed": func(s *store) { s.workloads["default/app"].Spec.Pod = nil },
		"reference mistyped": func(s *store) {
			s.workloads["default/app"].Spec.Pod.Spec.Raw = json.RawMessage(
				`{"containers": [{"name": "new", "envFrom": [{"secretRef": {"name": "al"}}]}]}`)
		},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := parse(t, twoSecretsManifests())
			change(s)
			got := s.render(t, persisted(t, good))
			if diff := cmp.Diff(good.Message, got.Message); diff != "" {
				t.Errorf("the device would be told otherwise (-good +now):\n%s", diff)
			}
			if got.Version != good.Version {
				t.Error("the version moved, the content did not")
			}
			if len(got.Problems) == 0 {
				t.Error("no problem is reported")
			}
			for _, p := range got.Problems {
				if p.Workload == "app" && !p.Kept {
					t.Errorf("%+v is not marked as kept", p)
				}
			}
			// And it stays so, however often it is rendered.
			again := s.render(t, persisted(t, got))
			if diff := cmp.Diff(got, again); diff != "" {
				t.Errorf("the next rendering differs:\n%s", diff)
			}
		})
	}
}

// persisted returns what a caller has after it kept the two fields as JSON.
func persisted(t *testing.T, r render.Result) *render.Result {
	t.Helper()
	raw, err := json.Marshal(render.Result{Message: r.Message, Problems: r.Problems})
	if err != nil {
		t.Fatal(err)
	}
	back := &render.Result{}
	if err := json.Unmarshal(raw, back); err != nil {
		t.Fatal(err)
	}
	return back
}

// A kept workload gets the secrets of today where they are there.
func TestKeptWorkloadGetsNewSecrets(t *testing.T) {
	t.Parallel()
	s := parse(t, twoSecretsManifests())
	good := s.render(t, nil)
	delete(s.configMaps, "default/settings")
	s.secrets["default/token"].StringData["token"] = "rotated"
	s.secrets["default/all"].StringData = map[string]string{"second": "2"}
	got := s.render(t, &good)
	if diff := cmp.Diff(map[string]string{"token": "rotated"}, findSecret(t, got, "token")); diff != "" {
		t.Errorf("token:\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"second": "2"}, findSecret(t, got, "all")); diff != "" {
		t.Errorf("all:\n%s", diff)
	}
}

// What was rendered with something missing is not good, and gives way to the
// next attempt.
func TestDegradedWorkloadIsNotKept(t *testing.T) {
	t.Parallel()
	s := parse(t, twoSecretsManifests())
	delete(s.secrets, "default/all")
	first := s.render(t, nil)
	s.workloads["default/app"].Spec.Pod.Spec.Raw = json.RawMessage(
		`{"containers": [{"name": "new", "image": "new", "envFrom": [{"secretRef": {"name": "all"}}]}]}`)
	second := s.render(t, &first)
	if findWorkload(t, first, "app").Specification == findWorkload(t, second, "app").Specification {
		t.Error("the degraded workload was kept")
	}
	for _, p := range second.Problems {
		if p.Kept {
			t.Errorf("%+v is marked as kept", p)
		}
	}
}

func TestRecovers(t *testing.T) {
	t.Parallel()
	s := parse(t, twoSecretsManifests())
	good := s.render(t, nil)
	all := s.secrets["default/all"]
	delete(s.secrets, "default/all")
	broken := s.render(t, &good)
	s.secrets["default/all"] = all
	s.workloads["default/app"].Spec.Pod.Spec.Raw = json.RawMessage(`{"containers": [{"name": "new"}]}`)
	got := s.render(t, &broken)
	want := s.render(t, nil)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-without a past +with one):\n%s", diff)
	}
}

// A workload that is gone is not brought back by what was.
func TestRemovedWorkloadIsNotKept(t *testing.T) {
	t.Parallel()
	s := parse(t, twoSecretsManifests())
	good := s.render(t, nil)
	delete(s.workloads, "default/app")
	got := s.render(t, &good)
	if len(got.Message.Workloads) != 1 || len(got.Message.Secrets) != 0 {
		t.Errorf("message still holds %s", got.JSON)
	}
}
