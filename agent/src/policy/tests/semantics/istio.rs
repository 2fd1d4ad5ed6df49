//! `AuthorizationPolicy` of Istio.

use super::Group;

pub(super) const GROUPS: &[Group] = &[
    Group {
        about: "an ALLOW for one service account",
        documents: "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: db, namespace: data }
spec:
  selector: { matchLabels: { app: db } }
  action: ALLOW
  rules:
    - from:
        - source: { principals: [ cluster.local/ns/shop/sa/web ] }
      to:
        - operation: { ports: [ '5432' ] }
",
        rows: "
            in  web     db:5432/tcp    allow data/db#rules[0]
            in  web     db:5433/tcp    deny  data/db
            in  web     db:5432/udp    deny  data/db
            in  api     db:5432/tcp    deny  data/db
            in  twin    db:5432/tcp    deny  data/db
            in  unknown db:5432/tcp    deny  data/db
            in  world   db:5432/tcp    deny  data/db
            in  host    db:5432/tcp    deny  data/db
            in  api     cache:1/tcp    allow -
            out db      world:443/tcp  allow -
        ",
    },
    Group {
        about: "v1beta1, prefixes, suffixes, stars and spiffe://",
        documents: "
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: { name: a, namespace: shop }
spec:
  selector: { matchLabels: { app: api } }
  rules:
    - from: [ { source: { principals: [ 'cluster.local/ns/data/*', '*/sa/pay' ] } } ]
    - from: [ { source: { principals: [ 'spiffe://partner.org/ns/shop/sa/web' ] } } ]
      to: [ { operation: { ports: [ '80' ] } } ]
---
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: { name: b, namespace: shop }
spec:
  selector: { matchLabels: { app: batch } }
  rules: [ { from: [ { source: { principals: [ '*' ] } } ] } ]
",
        rows: "
            in  db      api:1/tcp    allow shop/a#rules[0]
            in  cache   api:1/tcp    allow shop/a#rules[0]
            in  pay     api:1/tcp    allow shop/a#rules[0]
            in  web     api:80/tcp   deny  shop/a
            in  twin    api:80/tcp   allow shop/a#rules[1]
            in  twin    api:81/tcp   deny  shop/a
            in  unknown api:80/tcp   deny  shop/a
            in  web     batch:9/tcp  allow shop/b#rules[0]
            in  odd     batch:9/tcp  allow shop/b#rules[0]
            in  twin    batch:9/udp  allow shop/b#rules[0]
            in  unknown batch:9/tcp  deny  shop/b
            in  world   batch:9/tcp  deny  shop/b
            in  host    batch:9/tcp  deny  shop/b
        ",
    },
    Group {
        about: "spec: {} denies, rules: [{}] allows everything, DENY without rules does nothing",
        documents: "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: nothing, namespace: data }
spec: {}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: all, namespace: shop }
spec: { rules: [ {} ] }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: idle, namespace: payments }
spec: { action: DENY }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: shut, namespace: ext }
spec: { action: DENY, rules: [ {} ] }
",
        rows: "
            in  web    db:80/tcp    deny  data/nothing
            in  cache  db:80/tcp    deny  data/nothing
            in  db     cache:1/udp  deny  data/nothing
            in  db     web:80/tcp   allow shop/all#rules[0]
            in  world  web:80/tcp   allow shop/all#rules[0]
            in  db     api:80/tcp   allow shop/all#rules[0]
            in  web    pay:80/tcp   allow -
            in  world  pay:80/tcp   allow -
            in  web    twin:80/tcp  deny  ext/shut#rules[0]
            in  twin   odd:80/udp   deny  ext/shut#rules[0]
        ",
    },
    Group {
        about: "namespaces and service accounts come from the SPIFFE ID",
        documents: "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: n, namespace: data }
spec:
  selector: { matchLabels: { app: db } }
  rules: [ { from: [ { source: { namespaces: [ shop ] } } ] } ]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: s, namespace: data }
spec:
  selector: { matchLabels: { app: cache } }
  rules: [ { from: [ { source: { serviceAccounts: [ shop/web, db ] } } ] } ]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: both, namespace: payments }
spec:
  rules: [ { from: [ { source: { namespaces: [ sh*, '*ta' ], notPrincipals: [ '*/sa/batch' ] } } ] } ]
",
        rows: "
            in  web     db:1/tcp     allow data/n#rules[0]
            in  twin    db:1/tcp     allow data/n#rules[0]
            in  odd     db:1/tcp     deny  data/n
            in  cache   db:1/tcp     deny  data/n
            in  unknown db:1/tcp     deny  data/n
            in  web     cache:1/tcp  allow data/s#rules[0]
            in  db      cache:1/tcp  allow data/s#rules[0]
            in  twin    cache:1/tcp  deny  data/s
            in  api     cache:1/tcp  deny  data/s
            in  web     pay:1/tcp    allow payments/both#rules[0]
            in  db      pay:1/tcp    allow payments/both#rules[0]
            in  batch   pay:1/tcp    deny  payments/both
            in  odd     pay:1/tcp    deny  payments/both
            in  world   pay:1/tcp    deny  payments/both
        ",
    },
    Group {
        about: "negatives are true of sources that prove nothing",
        documents: "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: not, namespace: shop }
spec:
  selector: { matchLabels: { app: api } }
  rules: [ { from: [ { source: { notNamespaces: [ shop ] } } ] } ]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: only-proven, namespace: shop }
spec:
  selector: { matchLabels: { app: batch } }
  action: DENY
  rules: [ { from: [ { source: { notPrincipals: [ '*' ] } } ] } ]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: but, namespace: data }
spec:
  action: DENY
  rules: [ { from: [ { source: { notPrincipals: [ cluster.local/ns/shop/sa/web ] } } ], to: [ { operation: { notPorts: [ '5432', '80' ] } } ] } ]
",
        rows: "
            in  web       api:1/tcp      deny  shop/not
            in  db        api:1/tcp      allow shop/not#rules[0]
            in  odd       api:1/tcp      allow shop/not#rules[0]
            in  unknown   api:1/tcp      allow shop/not#rules[0]
            in  world     api:1/tcp      allow shop/not#rules[0]
            in  host      api:1/tcp      allow shop/not#rules[0]
            in  unmanaged api:1/tcp      allow shop/not#rules[0]
            in  web       batch:1/tcp    allow -
            in  twin      batch:1/tcp    allow -
            in  unknown   batch:1/tcp    deny  shop/only-proven#rules[0]
            in  world     batch:1/tcp    deny  shop/only-proven#rules[0]
            in  host      batch:1/tcp    deny  shop/only-proven#rules[0]
            in  web       db:1/tcp       allow -
            in  api       db:1/tcp       deny  data/but#rules[0]
            in  api       db:80/tcp      allow -
            in  api       db:81/tcp      deny  data/but#rules[0]
            in  api       db:5432/tcp    allow -
            in  api       db:5432/udp    deny  data/but#rules[0]
            in  unknown   db:443/tcp     deny  data/but#rules[0]
            in  unknown   db:65535/tcp   deny  data/but#rules[0]
        ",
    },
    Group {
        about: "addresses and conditions",
        documents: "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: ip, namespace: shop }
spec:
  selector: { matchLabels: { app: api } }
  rules:
    - from: [ { source: { ipBlocks: [ 203.0.113.0/24, 10.0.0.1 ], notIpBlocks: [ 203.0.113.128/25 ] } } ]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: when, namespace: data }
spec:
  selector: { matchLabels: { app: db } }
  rules:
    - when:
        - { key: source.principal, values: [ 'cluster.local/ns/shop/*' ], notValues: [ '*/sa/batch' ] }
        - { key: destination.port, values: [ '5432', '5433' ], notValues: [ '5433' ] }
    - when:
        - { key: source.ip, values: [ 198.51.100.0/24 ] }
        - { key: source.ip, notValues: [ 198.51.100.7 ] }
    - from: [ { source: { namespaces: [ payments ] } } ]
      to: [ { operation: { ports: [ '1', '2' ] } } ]
      when: [ { key: destination.port, values: [ '2', '3' ] }, { key: source.namespace, notValues: [ ext ] } ]
    - when: [ { key: source.serviceAccount, values: [ cache ] } ]
",
        rows: "
            in  world                  api:1/tcp    allow shop/ip#rules[0]
            in  world@203.0.113.200    api:1/tcp    deny  shop/ip
            in  web                    api:1/tcp    allow shop/ip#rules[0]
            in  web@10.0.0.7           api:1/tcp    deny  shop/ip
            in  unknown@10.0.0.1       api:1/udp    allow shop/ip#rules[0]
            in  world6                 api:1/tcp    deny  shop/ip
            in  web                    db:5432/tcp  allow data/when#rules[0]
            in  api                    db:5432/tcp  allow data/when#rules[0]
            in  batch                  db:5432/tcp  deny  data/when
            in  web                    db:5433/tcp  deny  data/when
            in  twin                   db:5432/tcp  deny  data/when
            in  world@198.51.100.8     db:9/tcp     allow data/when#rules[1]
            in  world@198.51.100.7     db:9/tcp     deny  data/when
            in  pay                    db:1/tcp     deny  data/when
            in  pay                    db:2/tcp     allow data/when#rules[2]
            in  pay                    db:3/tcp     deny  data/when
            in  cache                  db:9/tcp     allow data/when#rules[3]
        ",
    },
    Group {
        about: "conditions on requests: an ALLOW rule is left out, a DENY rule is broader",
        documents: "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: get, namespace: shop }
spec:
  selector: { matchLabels: { app: api } }
  rules:
    - from: [ { source: { principals: [ cluster.local/ns/shop/sa/web ] } } ]
      to: [ { operation: { methods: [ GET ], paths: [ /info* ] } } ]
    - from: [ { source: { principals: [ cluster.local/ns/data/sa/db ] } } ]
    - from: [ { source: { requestPrincipals: [ '*' ] } } ]
    - when: [ { key: 'request.headers[x]', values: [ y ] } ]
    - when: [ { key: destination.ip, values: [ 10.0.0.2 ] } ]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: no-delete, namespace: payments }
spec:
  action: DENY
  rules:
    - from: [ { source: { namespaces: [ shop ] } } ]
      to: [ { operation: { methods: [ DELETE ] } } ]
    - from: [ { source: { namespaces: [ data ] } } ]
      to: [ { operation: { ports: [ '80' ], paths: [ /x ] } } ]
    - from: [ { source: { namespaces: [ data ], notRequestPrincipals: [ a ] } } ]
      to: [ { operation: { ports: [ '81' ] } }, { operation: {} } ]
      when: [ { key: connection.sni, values: [ a.example ] } ]
",
        rows: "
            in  web     api:80/tcp   deny  shop/get
            in  db      api:80/tcp   allow shop/get#rules[1]
            in  pay     api:80/tcp   deny  shop/get
            in  world   api:80/tcp   deny  shop/get
            in  web     pay:80/tcp   deny  payments/no-delete#rules[0]
            in  web     pay:9/udp    deny  payments/no-delete#rules[0]
            in  db      pay:80/tcp   deny  payments/no-delete#rules[1]
            in  db      pay:81/tcp   deny  payments/no-delete#rules[2]
            in  db      pay:82/tcp   allow -
            in  odd     pay:80/tcp   allow -
            in  world   pay:80/tcp   allow -
        ",
    },
    Group {
        about: "an empty source, operation or list never matches",
        documents: "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: e, namespace: shop }
spec:
  selector: { matchLabels: { app: api } }
  rules:
    - from: [ { source: {} } ]
    - to: [ { operation: {} } ]
    - from: [ { source: { principals: [] } } ]
    - from: []
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: d, namespace: payments }
spec: { action: DENY, rules: [ { from: [ { source: {} } ] } ] }
",
        rows: "
            in  web    api:80/tcp  deny  shop/e
            in  world  api:80/tcp  deny  shop/e
            in  web    pay:80/tcp  allow -
        ",
    },
    Group {
        about: "DENY before ALLOW, AUDIT and dry-run beside them, the root namespace everywhere",
        documents: "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: everywhere, namespace: istio-system }
spec:
  action: DENY
  rules: [ { from: [ { source: { principals: [ '*/sa/batch' ] } } ] } ]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: fronts, namespace: istio-system }
spec:
  selector: { matchLabels: { tier: front } }
  rules: [ { to: [ { operation: { ports: [ '443' ] } } ] } ]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: watch, namespace: data }
spec:
  action: AUDIT
  rules: [ { from: [ { source: { namespaces: [ shop ] } } ], to: [ { operation: { ports: [ '5432' ] } } ] } ]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: try
  namespace: payments
  annotations: { istio.io/dry-run: 'true' }
spec: { rules: [ { from: [ { source: { principals: [ cluster.local/ns/shop/sa/web ] } } ] } ] }
",
        rows: "
            in  batch  db:1/tcp     deny  istio-system/everywhere#rules[0]
            in  batch  web:443/tcp  deny  istio-system/everywhere#rules[0]
            in  batch  odd:1/tcp    deny  istio-system/everywhere#rules[0]
            in  api    web:443/tcp  allow istio-system/fronts#rules[0]
            in  world  twin:443/tcp allow istio-system/fronts#rules[0]
            in  api    web:80/tcp   deny  istio-system/fronts
            in  api    batch:80/tcp allow -
            in  web    db:5432/tcp  audit data/watch#rules[0]
            in  web    db:5433/tcp  allow -
            in  pay    db:5432/tcp  allow -
            in  web    pay:443/tcp  allow istio-system/fronts#rules[0]
            in  api    pay:443/tcp  allow istio-system/fronts#rules[0]
            in  web    pay:80/tcp   deny  istio-system/fronts
        ",
    },
];
