{{/* One name for all that is the operator's: the release's, and what it is. */}}
{{- define "hearth.name" -}}
{{- if contains "hearth" .Release.Name -}}
{{- printf "%s-operator" (.Release.Name | trunc 50 | trimSuffix "-") -}}
{{- else -}}
{{- printf "%s-hearth-operator" (.Release.Name | trunc 43 | trimSuffix "-") -}}
{{- end -}}
{{- end }}

{{/* Labels that select the operator's pods. */}}
{{- define "hearth.selector" -}}
app.kubernetes.io/name: hearth
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "hearth.labels" -}}
{{ include "hearth.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* CEL: whether a request comes from one of these users, from the cluster's own controllers, or from
whoever may do everything. */}}
{{- define "hearth.trusted" -}}
request.userInfo.username in {{ toJson . }} ||
request.userInfo.username == 'system:kube-controller-manager' ||
'system:serviceaccounts:kube-system' in request.userInfo.?groups.orValue([]) ||
authorizer.group('*').resource('*').check('*').allowed()
{{- end }}

{{/* Puts the policy NAME in force where the operator acts. */}}
{{- define "hearth.binding" -}}
{{- $root := index . 0 -}}
{{- $name := printf "%s-%s" (include "hearth.name" $root) (index . 1) -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ $name }}
  labels: {{- include "hearth.labels" $root | nindent 4 }}
spec:
  policyName: {{ $name }}
  validationActions: [Deny]
  {{- with $root.Values.watchNamespace }}
  matchResources:
    namespaceSelector:
      matchLabels: {kubernetes.io/metadata.name: {{ . }}}
  {{- end }}
{{- end }}

{{/* The operator's labels and those of a value: (list . LABELS). */}}
{{- define "hearth.labelled" -}}
{{- $own := include "hearth.labels" (index . 0) | fromYaml -}}
{{- merge (dict) $own (index . 1 | default dict) | toYaml -}}
{{- end }}

{{/* Refuses metrics.VALUE.enabled where nobody may scrape: (list . VALUE). */}}
{{- define "hearth.scraped" -}}
{{- if not (index . 0).Values.metrics.namespace -}}
{{- fail (printf "metrics.%s.enabled needs metrics.namespace: while that is empty, the NetworkPolicies let nobody scrape. Set it to the namespace that Prometheus runs in." (index . 1)) -}}
{{- end -}}
{{- end }}
