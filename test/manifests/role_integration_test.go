//go:build integration

package manifests_test

import (
	"fmt"
	"strings"
	"testing"

	authorization "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/project-flotta/flotta-agent/test/testenv"
)

const flotta = ".management.project-flotta.io"

// question is what may be done: "verbs resource[/subresource][.group] [name]"
// in a namespace, "*" for all of them.
type question struct {
	verbs, resource, name, namespace string
}

func (q question) String() string {
	return fmt.Sprintf("%s %s %q in %q", q.verbs, q.resource, q.name, q.namespace)
}

// may asks the API server one question for each verb, and returns the verbs that
// are allowed.
func may(t *testing.T, user string, q question) (allowed []string) {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", cluster.kube.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	resource, group, _ := strings.Cut(q.resource, ".")
	resource, sub, _ := strings.Cut(resource, "/")
	namespace := q.namespace
	if namespace == "*" {
		namespace = ""
	}
	for verb := range strings.FieldsSeq(q.verbs) {
		review, err := client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorization.SubjectAccessReview{
			Spec: authorization.SubjectAccessReviewSpec{
				User: user, Groups: []string{"system:serviceaccounts", "system:serviceaccounts:flotta", "system:authenticated"},
				ResourceAttributes: &authorization.ResourceAttributes{
					Namespace: namespace, Verb: verb, Group: group, Resource: resource, Subresource: sub, Name: q.name,
				},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if review.Status.Allowed {
			allowed = append(allowed, verb)
		}
	}
	return allowed
}

// all is every verb.
const all = "get list watch create update patch delete deletecollection"

// Each component may do what it needs, wherever it needs it, and nothing else.
func TestRoles(t *testing.T) {
	t.Parallel()
	// A namespace of devices, and one that is nobody's business.
	kubectl(t, `apiVersion: v1
kind: Namespace
metadata: {name: factory}
---
apiVersion: v1
kind: Namespace
metadata: {name: payroll}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: flotta-edge-api-device-objects, namespace: factory}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: flotta-edge-api-device-objects}
subjects: [{kind: ServiceAccount, name: flotta-edge-api, namespace: flotta}]
`, "apply", "-f", "-")
	for _, user := range []struct {
		name  string
		rules []struct {
			q    question
			want string
		}
	}{
		{testenv.EdgeAPIUser, edgeAPIRules()},
		{testenv.OperatorUser, operatorRules()},
	} {
		for _, rule := range user.rules {
			if got := strings.Join(may(t, user.name, rule.q), " "); got != rule.want {
				t.Errorf("%s: %s: allowed %q, want %q", user.name, rule.q, got, rule.want)
			}
		}
	}
}

type rules = []struct {
	q    question
	want string
}

func edgeAPIRules() rules {
	const read = "get list watch"
	return rules{
		// Secrets: in namespaces of devices only, and of its own namespace as far
		// as its keys need it.
		{question{all, "secrets", "", "*"}, ""},
		{question{all, "secrets", "any", "payroll"}, ""},
		{question{all, "secrets", "any", "kube-system"}, ""},
		{question{all, "secrets", "any", "openshift-ingress-operator"}, ""},
		{question{all, "secrets", "any", "factory"}, read},
		{question{all, "secrets", "any", "default"}, read},
		{question{all, "secrets", "any", "flotta"}, "get list create"},
		{question{all, "secrets", "flotta-ca", "flotta"}, "get list create"},
		{question{all, "secrets", "flotta-host-certificate", "flotta"}, "get list create update"},
		{question{all, "configmaps", "any", "*"}, ""},
		{question{all, "configmaps", "any", "payroll"}, ""},
		{question{all, "configmaps", "any", "flotta"}, ""},
		{question{all, "configmaps", "any", "factory"}, read},
		// What is ours.
		{question{all, "edgedevices" + flotta, "", "*"}, read + " patch"},
		{question{all, "edgedevices/status" + flotta, "", "*"}, "update"},
		{question{all, "edgedevicesets" + flotta, "", "*"}, read},
		{question{all, "edgeworkloads" + flotta, "", "*"}, read},
		{question{all, "edgeworkloads/status" + flotta, "", "*"}, ""},
		{question{all, "playbookexecutions" + flotta, "", "*"}, read},
		{question{all, "playbookexecutions/status" + flotta, "", "*"}, "update"},
		{question{all, "edgeconfigs" + flotta, "", "*"}, ""},
		// A request can be made, and neither approved nor removed.
		{question{all, "edgedevicesignedrequest" + flotta, "", "default"}, read + " create"},
		{question{all, "edgedevicesignedrequest" + flotta, "", "factory"}, read},
		{question{all, "edgedevicesignedrequest/status" + flotta, "", "default"}, ""},
		// The rest.
		{question{all, "events", "", "*"}, "create"},
		{question{all, "routes.route.openshift.io", "s3", "openshift-storage"}, "get"},
		{question{all, "routes.route.openshift.io", "console", "openshift-console"}, ""},
		{question{all, "pods", "", "flotta"}, ""},
		{question{all, "leases.coordination.k8s.io", "", "flotta"}, ""},
		{question{all, "rolebindings.rbac.authorization.k8s.io", "", "default"}, ""},
		{question{"impersonate", "serviceaccounts", "flotta-operator", "flotta"}, ""},
		{question{"create", "serviceaccounts/token", "flotta-operator", "flotta"}, ""},
		{question{all, "customresourcedefinitions.apiextensions.k8s.io", "", "*"}, ""},
	}
}

func operatorRules() rules {
	const read = "get list watch"
	return rules{
		{question{all, "secrets", "", "*"}, ""},
		{question{all, "secrets", "flotta-ca", "flotta"}, ""},
		{question{all, "secrets", "any", "default"}, ""},
		{question{all, "configmaps", "any", "flotta"}, ""},
		{question{all, "configmaps", "any", "default"}, ""},
		{question{all, "edgedevices" + flotta, "", "*"}, read + " create update patch"},
		{question{all, "edgedevices/status" + flotta, "", "*"}, "update patch"},
		{question{all, "edgedevices/finalizers" + flotta, "", "*"}, "update"},
		{question{all, "edgedevicesets" + flotta, "", "*"}, read},
		{question{all, "edgedevicesignedrequest" + flotta, "", "default"}, read + " create update patch delete"},
		{question{all, "edgedevicesignedrequest/status" + flotta, "", "default"}, "update patch"},
		{question{all, "edgeworkloads" + flotta, "", "*"}, read + " update patch"},
		{question{all, "edgeworkloads/status" + flotta, "", "*"}, "update patch"},
		{question{all, "edgeconfigs" + flotta, "", "*"}, read + " patch"},
		{question{all, "edgeconfigs/status" + flotta, "", "*"}, "update patch"},
		{question{all, "edgeconfigs/finalizers" + flotta, "", "*"}, "update"},
		{question{all, "playbookexecutions" + flotta, "", "*"}, "get list watch create update patch delete"},
		{question{all, "playbookexecutions/status" + flotta, "", "*"}, "update patch"},
		{question{all, "objectbucketclaims.objectbucket.io", "", "*"}, read + " create patch delete"},
		{question{all, "events", "", "*"}, "create patch"},
		{question{all, "events.events.k8s.io", "", "*"}, "create patch"},
		{question{all, "leases.coordination.k8s.io", "b9eebab3.project-flotta.io", "flotta"}, "get create update patch"},
		{question{all, "leases.coordination.k8s.io", "other", "flotta"}, "create"},
		{question{all, "leases.coordination.k8s.io", "b9eebab3.project-flotta.io", "default"}, ""},
		{question{all, "pods", "", "*"}, ""},
		{question{all, "namespaces", "", "*"}, ""},
		{question{all, "clusterrolebindings.rbac.authorization.k8s.io", "", "*"}, ""},
		{question{all, "customresourcedefinitions.apiextensions.k8s.io", "", "*"}, ""},
	}
}
