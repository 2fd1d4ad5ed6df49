//! `NetworkPolicy` of Kubernetes.

use super::Group;

pub(super) const GROUPS: &[Group] = &[
    Group {
        about: "deny all ingress",
        documents: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: deny, namespace: shop }
spec: { podSelector: {}, policyTypes: [ Ingress ] }
",
        rows: "
            in  web     api:80/tcp   deny  shop/deny
            in  db      api:80/tcp   deny  shop/deny
            in  world   web:80/tcp   deny  shop/deny
            in  host    web:80/tcp   deny  shop/deny
            out web     world:80/tcp allow -
            in  web     db:80/tcp    allow -
        ",
    },
    Group {
        about: "deny and allow all, by their lists",
        documents: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: none, namespace: shop }
spec: { podSelector: {}, policyTypes: [ Ingress, Egress ] }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: all, namespace: data }
spec: { podSelector: {}, ingress: [ {} ], egress: [ {} ], policyTypes: [ Ingress, Egress ] }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: only-out, namespace: payments }
spec: { podSelector: {}, egress: [], policyTypes: [ Egress ] }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: idle, namespace: ext }
spec: { podSelector: { matchLabels: { app: odd } }, ingress: [ {} ], egress: [] }
",
        rows: "
            in  db     web:80/tcp    deny  shop/none
            out web    db:80/tcp     deny  shop/none
            out web    world:53/udp  deny  shop/none
            in  world  db:80/tcp     allow data/all#ingress[0]
            out db     world:80/tcp  allow data/all#egress[0]
            out pay    world:80/tcp  deny  payments/only-out
            in  web    pay:80/tcp    allow -
            in  web    odd:80/tcp    allow ext/idle#ingress[0]
            out odd    world:80/tcp  allow -
        ",
    },
    Group {
        about: "pods and namespaces",
        documents: "
apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { team: red, stage: live } }
---
apiVersion: v1
kind: Namespace
metadata: { name: payments, labels: { team: red, stage: test } }
---
apiVersion: v1
kind: Namespace
metadata: { name: data }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: p, namespace: data }
spec:
  podSelector: { matchLabels: { app: db } }
  ingress:
    - from: [ { podSelector: { matchLabels: { app: cache } } } ]
      ports: [ { port: 1 } ]
    - from: [ { namespaceSelector: { matchLabels: { team: red } } } ]
      ports: [ { port: 2 } ]
    - from: [ { namespaceSelector: { matchLabels: { team: red } }, podSelector: { matchLabels: { tier: front } } } ]
      ports: [ { port: 3 } ]
    - from: [ { namespaceSelector: { matchLabels: { team: red } } }, { podSelector: {} } ]
      ports: [ { port: 4 } ]
    - from: [ { namespaceSelector: {} } ]
      ports: [ { port: 5 } ]
    - from: [ { namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: ext } } } ]
      ports: [ { port: 6 } ]
    - from: [ { namespaceSelector: { matchExpressions: [ { key: stage, operator: NotIn, values: [ test ] } ] } } ]
      ports: [ { port: 7 } ]
    - from: [ { namespaceSelector: { matchExpressions: [ { key: kubernetes.io/metadata.name, operator: NotIn, values: [ shop, ext ] } ] } } ]
      ports: [ { port: 8 } ]
",
        rows: "
            in  cache   db:1/tcp  allow data/p#ingress[0]
            in  web     db:1/tcp  deny  data/p
            in  web     db:2/tcp  allow data/p#ingress[1]
            in  pay     db:2/tcp  allow data/p#ingress[1]
            in  cache   db:2/tcp  deny  data/p
            in  twin    db:2/tcp  deny  data/p
            in  web     db:3/tcp  allow data/p#ingress[2]
            in  batch   db:3/tcp  deny  data/p
            in  pay     db:3/tcp  allow data/p#ingress[2]
            in  twin    db:3/tcp  deny  data/p
            in  web     db:4/tcp  allow data/p#ingress[3]
            in  cache   db:4/tcp  allow data/p#ingress[3]
            in  twin    db:4/tcp  deny  data/p
            in  twin    db:5/tcp  allow data/p#ingress[4]
            in  unknown db:5/tcp  deny  data/p
            in  host    db:5/tcp  deny  data/p
            in  world   db:5/tcp  deny  data/p
            in  odd     db:6/tcp  allow data/p#ingress[5]
            in  web     db:6/tcp  deny  data/p
            in  web     db:7/tcp  allow data/p#ingress[6]
            in  cache   db:7/tcp  allow data/p#ingress[6]
            in  pay     db:7/tcp  deny  data/p
            in  twin    db:7/tcp  deny  data/p
            in  pay     db:8/tcp  allow data/p#ingress[7]
            in  web     db:8/tcp  deny  data/p
            in  odd     db:8/tcp  deny  data/p
            in  unknown db:8/tcp  deny  data/p
            in  web     cache:1/tcp allow -
        ",
    },
    Group {
        about: "expressions select what is bound and who is meant",
        documents: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: e, namespace: shop }
spec:
  podSelector:
    matchExpressions:
      - { key: app, operator: In, values: [ web, api ] }
      - { key: app, operator: NotIn, values: [ web ] }
  ingress:
    - from: [ { podSelector: { matchExpressions: [ { key: tier, operator: Exists } ] } } ]
      ports: [ { port: 1 } ]
    - from: [ { podSelector: { matchExpressions: [ { key: tier, operator: DoesNotExist } ] } } ]
      ports: [ { port: 2 } ]
",
        rows: "
            in  web     api:1/tcp    allow shop/e#ingress[0]
            in  batch   api:1/tcp    deny  shop/e
            in  batch   api:2/tcp    allow shop/e#ingress[1]
            in  web     api:2/tcp    deny  shop/e
            in  unknown api:2/tcp    deny  shop/e
            in  cache   api:2/tcp    deny  shop/e
            in  batch   web:9/tcp    allow -
            in  web     batch:9/tcp  allow -
        ",
    },
    Group {
        about: "blocks of addresses and ports",
        documents: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: out, namespace: shop }
spec:
  podSelector: { matchLabels: { app: web } }
  policyTypes: [ Egress ]
  egress:
    - to: [ { ipBlock: { cidr: 203.0.113.0/24, except: [ 203.0.113.128/25 ] } } ]
      ports: [ { protocol: TCP, port: 80 }, { protocol: TCP, port: 8000, endPort: 8010 } ]
    - ports: [ { protocol: UDP, port: 53 }, { protocol: SCTP } ]
    - to: [ { podSelector: { matchLabels: { app: api } } } ]
      ports: [ {} ]
    - to: [ { ipBlock: { cidr: '::/0' } } ]
    - to: []
      ports: [ { port: 4444 } ]
    - to: [ { podSelector: { matchLabels: { app: batch } } } ]
      ports: []
",
        rows: "
            out web world:80/tcp                 allow shop/out#egress[0]
            out web world:8005/tcp               allow shop/out#egress[0]
            out web world:8011/tcp               deny  shop/out
            out web world:80/udp                 deny  shop/out
            out web world@203.0.113.129:80/tcp   deny  shop/out
            out web world@198.51.100.1:80/tcp    deny  shop/out
            out web world:53/udp                 allow shop/out#egress[1]
            out web db:53/udp                    allow shop/out#egress[1]
            out web db:53/tcp                    deny  shop/out
            out web db:proto/132                 allow shop/out#egress[1]
            out web api:9/tcp                    allow shop/out#egress[2]
            out web api:9/udp                    deny  shop/out
            out web world6:9/udp                 allow shop/out#egress[3]
            out web db:4444/tcp                  allow shop/out#egress[4]
            out web batch:9/udp                  allow shop/out#egress[5]
            out web db:9/tcp                     deny  shop/out
        ",
    },
    Group {
        about: "policies add up, whatever their kinds",
        documents: "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: same, namespace: shop }
spec:
  podSelector: { matchLabels: { app: api } }
  ingress: [ { from: [ { podSelector: { matchLabels: { app: web } } } ] } ]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: same, namespace: shop }
spec:
  selector: { matchLabels: { app: api } }
  action: DENY
  rules: [ { to: [ { operation: { ports: [ '22' ] } } ] } ]
---
apiVersion: waxseal.dev/v1alpha1
kind: IdentityPolicy
metadata: { name: same, namespace: shop }
spec:
  selector: { app: api }
  ingress: [ { name: own, from: [ { labels: { app: batch } } ] } ]
",
        rows: "
            in  web   api:80/tcp  allow shop/same#ingress[0]
            in  web   api:22/tcp  deny  shop/same#rules[0]
            in  batch api:80/tcp  allow shop/same#own
            in  batch api:22/tcp  deny  shop/same#rules[0]
            in  db    api:80/tcp  deny  shop/same
        ",
    },
];
