if header() then
  return answer('name_taken')
end
local current = composition()
local expression = current and current.expression or ''
if request.compare and expression ~= request.expected then
  return answer('composition_changed')
end
if expression ~= request.expression then
  announce_composition('composition_set', {
    tenant = request.tenant, name = request.name, expression = request.expression,
    created = current and current.created or request.created,
  })
end
return answer('ok')
