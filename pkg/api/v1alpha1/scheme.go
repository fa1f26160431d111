package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion returns the group and version of all kinds here.
func GroupVersion() schema.GroupVersion { return schema.GroupVersion{Group: Group, Version: Version} }

// Resource returns the group and resource of one, by its plural name, as errors
// of the API server name it.
func Resource(plural string) schema.GroupResource {
	return schema.GroupResource{Group: Group, Resource: plural}
}

// AddToScheme makes the kinds known to clients that use the scheme.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion(),
		&EdgeDevice{}, &EdgeDeviceList{},
		&EdgeDeviceSet{}, &EdgeDeviceSetList{},
		&EdgeDeviceSignedRequest{}, &EdgeDeviceSignedRequestList{},
		&EdgeWorkload{}, &EdgeWorkloadList{},
		&EdgeConfig{}, &EdgeConfigList{},
		&PlaybookExecution{}, &PlaybookExecutionList{},
	)
	metav1.AddToGroupVersion(s, GroupVersion())
	return nil
}
